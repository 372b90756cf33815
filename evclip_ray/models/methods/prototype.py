"""Nearest class mean (prototypical networks, Snell et al. 2017, arXiv 1703.05175).

    v        = L2(mean_t r_t)
    loss     = mean over videos of |v - p_y|^2
    logits_c = exp(s) v . L2(p_c)

where
    r_t      frame feature of frame t, (D,), un-normalised
    p_c      prototype of class c, (D,), trained; the loss is least at the mean v of the class
    y        label of the video
    exp(s)   logit scale of CLIP

The means are reached by gradient descent instead of a pass of their own. Videos may therefore arrive in any
order, on any number of workers. A prototype starts at the class text and stays there for a class without
videos; weight decay shortens it, which the cosine ignores. Snell et al. use distances for the logits.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import class_logits, class_texts, mean_feature
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.prototype import PrototypeConfig
from evclip_ray.models.setting_types import Normalization


class Prototype(Method):
    """Nearest class mean.

    Args:
        frozen: Frozen networks.
        start: (N, D), initial prototypes.
        normalization: As in the config.
    """

    def __init__(self, frozen: Frozen, *, start: Tensor, normalization: Normalization = "own") -> None:
        super().__init__(frozen)
        # Cloned: the text features may be a cached tensor, which training must not change.
        self.prototypes = nn.Parameter(start.detach().clone())
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. Cached frame features are used if the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        prototypes = F.normalize(self.prototypes.float(), dim=-1)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, prototypes),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `distance`, the mean squared distance from each video to the prototype of its class."""
        assert output.video_features is not None
        return {"distance": (output.video_features - self.prototypes[labels]).square().sum(1).mean()}


def build(
    config: PrototypeConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> Prototype:
    """Return the module. The class names are encoded here, once."""
    text_features = frozen.clip.encode_text(class_texts(class_names, config.template))
    return Prototype(frozen, start=text_features, normalization=config.normalization)
