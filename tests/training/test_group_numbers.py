"""A run in two processes without Ray (distributed.py) gives the numbers of one process."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist

from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run


def _worker(rank, world, folder, settings):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    videos = Videos.load(folder / "videos.json")
    Run.start(ExperimentConfig.load(settings), videos, folder=folder / "shared").fit(lambda metrics: None)
    dist.destroy_process_group()


def _history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(make_experiment, tiny_videos, tmp_path):
    # 18 training videos in batches of at most 7, so the shares of the processes differ in size.
    experiment = make_experiment(
        optim__epochs=1,
        optim__batch_size=7,
        data__augment__brightness=0.2,
        data__augment__contrast=0.2,
        data__augment__low_light=0.5,
    )
    tiny_videos.save(tmp_path / "videos.json")
    Run.start(experiment, tiny_videos, folder=tmp_path / "alone").fit(lambda metrics: None)
    torch.multiprocessing.spawn(_worker, args=(2, tmp_path, experiment.model_dump(mode="json")), nprocs=2)
    alone, shared = _history(tmp_path / "alone"), _history(tmp_path / "shared")
    assert len(alone) == len(shared) == 1
    for key in ("train_loss", "grad_norm", "val_loss", "val_top1"):
        np.testing.assert_allclose(shared[0][key], alone[0][key], rtol=1e-4, err_msg=key)
