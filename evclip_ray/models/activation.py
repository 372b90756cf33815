"""Activation of a CLIP's MLPs, which weights do not contain: GELU, or OpenAI's QuickGELU x sigmoid(1.702 x).

Weights that were trained with one load without error under the other, and the features are off by about 2 %.
A tag of open_clip knows its activation. A local file may state it in one of these places, read in this order:

1. the metadata of a safetensors file: `activation`, `hidden_act` or `quick_gelu`
2. `FILE.json` next to it, for weights.pt the file weights.pt.json
3. `open_clip_config.json` in the same folder: `model_cfg.quick_gelu`, false if missing, as in open_clip
4. `config.json` of Hugging Face in the same folder: `hidden_act` of the vision config
5. its format: archives of OpenAI and published EV-CLIP checkpoints were trained with QuickGELU

`backbone.activation` overrides what is found.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors

Activation = Literal["gelu", "quickgelu"]
ActivationSetting = Literal["auto", "gelu", "quickgelu"]
"""Value of `backbone.activation`; "auto" takes it from the tag or the file."""

_NAMES: dict[str, Activation] = {"gelu": "gelu", "quickgelu": "quickgelu", "quick_gelu": "quickgelu"}
_HUGGING_FACE_CLIP = "clip"


def stated_activation(path: Path) -> tuple[Activation, str] | None:
    """Return the activation that a weight file states, and where it was found, or None.

    The format of the file is not checked, see the list in the module.
    """
    for place, content in _statements(path):
        activation = _activation_in(content)
        if activation is not None:
            return activation, place
    return None


def _statements(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".safetensors":
        # A file that is no safetensors file is refused when its tensors are read.
        with (
            contextlib.suppress(OSError, safetensors.SafetensorError),
            safetensors.safe_open(path, framework="pt") as opened,
        ):
            yield "the file's metadata", opened.metadata() or {}
    configs = (path.with_name(path.name + ".json"), path.parent / "open_clip_config.json")
    for place in (*configs, path.parent / "config.json"):
        content = _read(place)
        if place.name == "open_clip_config.json" and isinstance(content.get("model_cfg"), Mapping):
            # open_clip writes `quick_gelu` only where it is true.
            content = {"quick_gelu": False, **content["model_cfg"]}
        yield place.name, content


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # `config.json` is a common name: a file of another program states nothing.
        return {}
    return content if isinstance(content, Mapping) else {}


def _activation_in(content: Mapping[str, Any]) -> Activation | None:
    for key in ("activation", "hidden_act"):
        name = _NAMES.get(str(content.get(key)).lower())
        if name is not None:
            return name
    if "quick_gelu" in content:
        return "quickgelu" if str(content["quick_gelu"]).lower() in ("true", "1") else "gelu"
    vision = content.get("vision_config")
    if not isinstance(vision, Mapping):
        return None
    # Transformers leaves out values that equal its default, which is QuickGELU for a CLIP.
    default = "quick_gelu" if content.get("model_type") == _HUGGING_FACE_CLIP else None
    return _NAMES.get(str(vision.get("hidden_act", default)).lower())
