"""What the examinations of all methods share: the cases, and how one is built and trained."""

from typing import Any

import torch
from torch import Tensor

from evclip_ray.models.clip import load_clip
from evclip_ray.models.methods import find_method
from evclip_ray.models.methods.base import Frozen, Method, VideoBatch
from evclip_ray.models.video_encoder import load_video_encoder

CLASSES = ("walk", "run", "wave", "open a door")

CASES: dict[str, dict[str, Any]] = {
    "zero_shot": {},
    "ev_clip": {},
    "ev_clip, mask": {"prompts": "mask"},
    "ev_clip, context": {"prompts": "context"},
    "ez_clip": {},
    "ez_clip, shallow": {"prompts": "shallow"},
    "ez_clip, no prompts": {"prompts": "none"},
    "motion_prompts": {"num_vectors": 4},
    "motion_prompts, late": {"mode": "late"},
    "coop": {"num_vectors": 4},
    "coop, by class": {"num_vectors": 4, "class_specific": True},
    "linear_probe": {},
    "prototype": {},
    "fine_tune": {},
    "st_adapter": {"width": 16},
    "st_adapter, both, linear": {"width": 16, "placement": "both", "head": "linear", "dropout": 0.0},
    "aim": {},
    "aim, two, linear": {"temporal_adapters": 2, "head": "linear", "dropout": 0.0},
}
TRAINED = [case for case in CASES if case != "zero_shot"]


def frozen_networks() -> Frozen:
    return Frozen(load_clip("debug", "random"), load_video_encoder("swin3d_debug", "random"))


def built(case: str, frozen: Frozen, num_frames: int = 8, seed: int = 0) -> Method:
    name = case.split(",")[0]
    config = find_method(name).load({"name": name, **CASES[case]})
    torch.manual_seed(seed)
    return config.build(frozen, class_names=CLASSES, num_frames=num_frames, image_size=64)


def videos(count: int, num_frames: int = 8) -> VideoBatch:
    """Videos that differ, with labels in turn."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.rand(count, num_frames, 3, 64, 64, generator=generator)
    pixels = pixels * torch.rand(count, num_frames, 3, 1, 1, generator=generator)
    return VideoBatch(pixels, labels=torch.arange(count) % len(CLASSES))


def train(method: Method, batch: VideoBatch, *, steps: int, lr: float) -> list[float]:
    """The loss before each step. No weight decay: it moves what no gradient reaches."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr, weight_decay=0.0)
    method.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(total_loss(method, method, batch))
        losses[-1].backward()
        optimizer.step()
    return [loss.item() for loss in losses]


def total_loss(method: Method, model: torch.nn.Module, batch: VideoBatch) -> Tensor:
    assert batch.labels is not None
    return torch.stack(list(method.losses(model(batch), batch.labels).values())).sum()
