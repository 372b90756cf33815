"""CLIP towers inside a published EV-CLIP checkpoint: their names, and which backbone they are."""

from collections.abc import Mapping

from torch import Tensor

from evclip_ray.models.backbones import BACKBONES, build

_IMAGE, _TEXT, _SCALE = "image_encoder.", "text_encoder.", "logit_scale"


def open_clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The CLIP tensors of `state` under open_clip's names; empty when it holds no published towers."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith(_IMAGE) for key in state):
        return {}
    renamed = {}
    for key, value in state.items():
        if key.startswith(_IMAGE):
            renamed["visual." + key.removeprefix(_IMAGE)] = value
        elif key.startswith(_TEXT):
            renamed[key.removeprefix(_TEXT)] = value
        elif key == _SCALE:
            renamed[key] = value
    return renamed


def find_backbone_of(state: Mapping[str, Tensor]) -> str | None:
    """The row of BACKBONES whose image tower has the shapes of that in `state`."""
    found = _visual_shapes(open_clip_names(state))
    if not found:
        return None
    for name, row in BACKBONES.items():
        model = build(row.architecture(None), device="meta")
        if _visual_shapes(model.state_dict()) == found:
            return name
    return None


def _visual_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        # Some releases leave out this counter, which evaluation does not read.
        if key.startswith("visual.") and not key.endswith("num_batches_tracked")
    }
