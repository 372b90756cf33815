"""Base class of the networks of methods, see `evclip_ray.models.methods.base`."""

import abc
from typing import ClassVar

from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import TextClassifier


class Method(nn.Module, abc.ABC):
    """Base class of methods. Subclasses register only the tensors that they train.

    Args:
        frozen: Frozen networks, kept as `self.frozen` without registration.

    Attributes:
        has_fixed_shapes: Whether a training step is a fixed sequence of kernels: its shapes follow from the
            number of its videos, and its random numbers are those of the device. Steps of other methods are
            neither compiled nor captured in a CUDA graph.
    """

    has_fixed_shapes: ClassVar[bool] = True

    def __init__(self, frozen: Frozen) -> None:
        super().__init__()
        # A dataclass is invisible to nn.Module's registration; assigning the networks themselves would
        # put them into parameters() and state_dict().
        self.frozen = frozen

    @abc.abstractmethod
    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of a batch over all classes, and the tensors that the losses need."""

    @abc.abstractmethod
    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted loss terms by name; training minimises their sum.

        Args:
            output: Result of `forward` on the same batch.
            labels: (B,) int64 class indices.
        """

    def text_classifier(self) -> TextClassifier | None:
        """Return the class texts whose scaled cosines with the video features are the logits.

        An exported model then takes text features as an input, so that its classes stay open. None if the
        logits are computed in another way, or if trained tensors belong to single classes.
        """
        return None

    def num_trainable(self) -> int:
        """Return the number of parameters that training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def scalars(self) -> dict[str, float]:
        """Return the trained tensors of a single number by name, which TensorBoard draws over the epochs."""
        return {name: p.item() for name, p in self.named_parameters() if p.requires_grad and p.ndim == 0}
