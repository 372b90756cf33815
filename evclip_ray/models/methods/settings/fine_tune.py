"""Settings of full fine-tuning, and its conformance cases. The network is in `methods/fine_tune.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evclip_ray.models.methods.config import MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization, Template


class FineTuneConfig(MethodConfig):
    """Settings of full fine-tuning. Set `optim.lr` to 1/100 of a prompt's: 2e-6 to 8e-6 as published.

    Attributes:
        template: Sentence with one gap {} for the class name.
        label_smoothing: Probability that is spread evenly over all classes; 0.1 as published.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.fine_tune"
    name: Literal["fine_tune"] = "fine_tune"
    template: Template = "a photo of a {}."
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    normalization: Normalization = "own"

    @property
    def copies_clip(self) -> bool:
        """Whether the method trains a copy of CLIP: it does."""
        return True


METHOD_CASES = (MethodCase(num_trainable=263745),)
