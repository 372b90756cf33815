"""Types of settings that several methods share. Settings are read without PyTorch."""

from typing import Annotated, Literal

from pydantic import AfterValidator

Normalization = Literal["own", "imagenet"]
"""Statistics that normalise the pixels: those of CLIP ("own"), or of ImageNet as in EV-CLIP's release."""

Head = Literal["text", "linear"]
"""Kind of head: cosines with the class texts, which start at CLIP ("text"), or a trained layer."""

MaskStart = Literal["published", "open"]
"""Mask at the start of training: noise with a mean of about 0.3, or 0.5 and above."""

GAP = "{}"


def _with_one_gap(template: str) -> str:
    if template.count(GAP) != 1:
        raise ValueError(
            f"a template must contain {GAP} exactly once, in place of the class name; got {template!r}"
        )
    return template


Template = Annotated[str, AfterValidator(_with_one_gap)]
"""An English sentence with a gap for the class name, `"A video of {}."`."""
