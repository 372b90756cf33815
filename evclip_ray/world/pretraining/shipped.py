"""Scores of the shipped weights, computed through the loaders of the product."""

import torch
import torch.nn.functional as F
from torch import Tensor

from evclip_ray.models.backbones import BACKBONES
from evclip_ray.models.clip import load_clip
from evclip_ray.models.video_encoder import load_video_encoder
from evclip_ray.models.world_weights import HEADS, WORLD, read_world_tensors
from evclip_ray.world.pretraining.corpus import action_names
from evclip_ray.world.pretraining.frames import scaled
from evclip_ray.world.pretraining.scores import ScoreSet, label_scores, zero_shot_scores


@torch.no_grad()
def score_row(row: str, held: ScoreSet) -> dict[str, float]:
    """Return the scores of a shipped network on one set.

    Args:
        row: "world-*" row of BACKBONES or "swin3d_world*" row of VIDEO_ENCODERS.
        held: Videos.
    """
    names = action_names(held.corpus.held_out)
    if row in BACKBONES:
        clip = load_clip(row, WORLD)
        return zero_shot_scores(
            held, lambda frames: clip.encode_frames(clip.prepare(scaled(frames))), clip.encode_text, names
        )
    encoder = load_video_encoder(row, WORLD)
    heads = {key: value for key, value in read_world_tensors(row).items() if key.startswith(HEADS)}

    def predict(frames: Tensor) -> dict[str, Tensor]:
        # (B, D_z, T / 2, h, w) -> (B, D_z), as in the pretraining.
        pooled = encoder(encoder.prepare(scaled(frames))).mean((2, 3, 4))
        return {
            key: F.linear(pooled, heads[f"{HEADS}{key}.weight"], heads[f"{HEADS}{key}.bias"])
            for key in ("action", "motion", "part")
        }

    return label_scores(held, predict, names)
