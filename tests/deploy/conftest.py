"""Checkpoints of untrained methods on the debug towers, and small videos: quick fixtures of deployment."""

import pytest
import torch
from numbered_videos import write_numbered

CLASSES = ("walk", "run", "wave", "open_a_door")
_ENCODER = {"name": "swin3d_debug", "weights": "random"}
_SETTINGS = {
    "ev_clip": {"mask": {"depth": 1}, "context": {"scale_init": 1.0}, "video_encoder": _ENCODER},
    "coop": {"num_vectors": 4},
    "motion_prompts": {"num_vectors": 4},
    "st_adapter": {"width": 16},
}


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """Return a function that writes a checkpoint of a method on the debug towers and returns its folder.

    Its tensors are random, so that videos get different logits. Equal arguments give the same folder, which
    tests must not change.
    """
    from evclip_ray.artifacts import provenance
    from evclip_ray.config import override
    from evclip_ray.training.build import build_method, conditions_of, weights_of
    from evclip_ray.training.checkpoint import save_checkpoint
    from evclip_ray.training.experiment import ExperimentConfig

    folders = {}

    def make(method="ev_clip", *, classes=CLASSES, overrides=None):
        key = (method, tuple(classes), repr(sorted((overrides or {}).items())))
        if key in folders:
            return folders[key]
        settings = {
            "data": {"manifest": "videos.csv"},
            "view": {"num_frames": 4, "short_side": 72},
            "backbone": {"name": "debug", "pretrained": "random"},
            "method": {"name": method, **_SETTINGS.get(method, {})},
            "optim": {"eval_batch_size": 4},
        }
        experiment = ExperimentConfig.load(override(settings, overrides or {}))
        cpu = torch.device("cpu")
        built = build_method(experiment, classes, device=cpu)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in built.parameters():
                value += 0.05 * torch.randn(value.shape, generator=generator)
        record = {
            "experiment": experiment.model_dump(mode="json"),
            "classes": list(classes),
            "num_trainable": built.num_trainable(),
            "weights": weights_of(built.frozen),
            "conditions": conditions_of(built.frozen, experiment, cpu),
            "provenance": provenance(),
        }
        folders[key] = tmp_path_factory.mktemp("checkpoint") / "best"
        save_checkpoint(folders[key], built, record)
        return folders[key]

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    """Return the folder of an EV-CLIP checkpoint with both prompts on the debug towers."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Return three small videos of 1, 2 and 3 seconds at 25 frames per second."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_numbered(folder / f"{number}.mp4", "libx264", numbers=range(10 * number, 10 * number + length))
        for number, length in enumerate((25, 50, 75))
    ]
