"""CLIP towers inside a published EV-CLIP checkpoint: names of tensors and the matching backbone."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from evclip_ray.models.backbones import BACKBONES
from evclip_ray.models.open_clip_models import build

_IMAGE, _TEXT, _SCALE = "image_encoder.", "text_encoder.", "logit_scale"


def is_published(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are those of a published EV-CLIP checkpoint."""
    return any(name.removeprefix("module.").startswith(_IMAGE) for name in names)


def open_clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the CLIP tensors of a published checkpoint to open_clip's names.

    Returns an empty dict if `state` contains no published towers.
    """
    if not is_published(state):
        return {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
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
    """Return the row of BACKBONES whose image tower has the shapes of `state`, or None."""
    shapes = _visual_shapes(open_clip_names(state))
    if not shapes:
        return None
    for name, row in BACKBONES.items():
        # Shapes identify the backbone, and the meta device gives them without memory.
        model = build(row.architecture("gelu"), device="meta")
        if _visual_shapes(model.state_dict()) == shapes:
            return name
    return None


def _visual_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        # Some releases omit this counter, which evaluation mode does not use.
        if key.startswith("visual.") and not key.endswith("num_batches_tracked")
    }
