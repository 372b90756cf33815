"""The losses of EZ-CLIP: videos and texts of a batch find each other, and frames are to differ."""

import torch
import torch.nn.functional as F
from torch import Tensor

from evclip_ray.models.layers.gather import gather_rows

_SHARPNESS = 10.0


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, B) logits of a batch's videos over its own texts -> a number, symmetric in the two.

    (KL(target || softmax over texts) + KL(target || softmax over videos)) / 2, a mean over rows, with
    target = softmax(10 [y_i = y_j]): videos of one class share their texts. (arXiv 2312.08010)
    """
    same = labels[:, None] == labels[None, :]
    target = (_SHARPNESS * same).softmax(1)
    return (_divergence(logits, target) + _divergence(logits.T, target)) / 2


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")


def motion_loss(frame_features: Tensor) -> Tensor:
    """(B, T, D) un-normalised -> a number in (0, 1], smaller the more the frames of a video differ.

    1 / (1 + C + V), where C is the mean of |f_{t+1} - f_{t-1}| / 2, first and last frame repeated,
    and V the mean of the unbiased variance over time. A still video gives 1, white noise (T = 8)
    0.390. C and V are means over the batch *before* the quotient. (arXiv 2312.08010)
    """
    frames = frame_features.float()
    if frames.shape[1] == 1:
        return frames.new_ones(())
    padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)
    change = (padded[:, 2:] - padded[:, :-2]).abs().mean((1, 2)) / 2
    variance = frames.var(1).mean(1)
    return 1 / (1 + gather_rows(change + variance).mean())
