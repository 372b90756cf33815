"""Gradients of two workers that share a batch, compared with those of one worker (all methods)."""

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.methods import METHODS
from evclip_ray.models.methods.ev_clip import consistency_loss
from evclip_ray.models.methods.ez_clip import motion_loss
from evclip_ray.testing import find_cases, load_networks, random_videos, total_loss

NUM_VIDEOS = 5
# Workers draw different dropout masks, so random cases have no common gradient to compare.
TRAINED = {
    str(named): named
    for named in find_cases(METHODS)
    if named.case.num_trainable and not named.case.is_random
}
BATCH_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "consistency": consistency_loss,
    "motion": motion_loss,
}
"""Losses that are not a mean over videos. The gradient of one worker's part is biased, not only noisier."""

Gradients = dict[str, Tensor]


def features() -> tuple[Tensor, Tensor]:
    """Return random features (B, T, D), and weights (D,) to differentiate by."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.linspace(0.5, 2, 16).requires_grad_()
    return torch.randn(NUM_VIDEOS, 4, 16, generator=generator), weights


@pytest.fixture(scope="module")
def worker_gradients(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Gradients]:
    """Gradients of each case and loss on two workers with three and two videos."""
    folder = tmp_path_factory.mktemp("workers")
    # This process is worker 0: a second one would spend seconds on its imports.
    other = torch.multiprocessing.spawn(_other_worker, args=(str(folder),), join=False)
    _work(0, str(folder))
    while not other.join():
        pass
    gradients: dict[str, Gradients] = torch.load(folder / "gradients.pt", weights_only=True)
    return gradients


def _other_worker(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    _work(1, folder)


def _work(rank: int, folder: str) -> None:
    world = 2
    # If one worker fails, the other one must not wait for the default of 30 minutes.
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": datetime.timedelta(minutes=2)}
    dist.init_process_group("gloo", rank=rank, world_size=world, **meeting)
    batch, frozen = random_videos(NUM_VIDEOS), load_networks()
    mine = torch.from_numpy(np.array_split(np.arange(NUM_VIDEOS), world)[rank])
    # The training loop weights the parts of a batch in the same way.
    share = len(mine) * world / NUM_VIDEOS
    gradients = {}
    for case, named in TRAINED.items():
        method = named.build(frozen).train()
        model = torch.nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
        part = VideoBatch(batch.pixels[mine], labels=batch.labels[mine])
        (total_loss(method, model, part) * share).backward()
        gradients[case] = {name: p.grad for name, p in method.named_parameters()}
    for name, loss in BATCH_LOSSES.items():
        frames, weights = features()
        (loss(frames[mine] * weights) * share).backward()
        dist.all_reduce(weights.grad)
        gradients[name] = {"weights": weights.grad / world}
    if rank == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("case", TRAINED)
def test_two_workers_give_the_gradients_of_one(
    frozen: Frozen, worker_gradients: Mapping[str, Gradients], case: str
) -> None:
    method = TRAINED[case].build(frozen).train()
    total_loss(method, method, random_videos(NUM_VIDEOS)).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        tolerance = 1e-4 * parameter.grad.abs().max().item() + 1e-6
        torch.testing.assert_close(
            worker_gradients[case][name], parameter.grad, atol=tolerance, rtol=1e-4, msg=f"{case}: {name}"
        )


@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_two_workers_give_the_loss_of_the_whole_batch(
    worker_gradients: Mapping[str, Gradients], name: str
) -> None:
    frames, weights = features()
    BATCH_LOSSES[name](frames * weights).backward()
    torch.testing.assert_close(worker_gradients[name]["weights"], weights.grad, atol=1e-6, rtol=1e-4)
    apart = torch.zeros(16)
    for part in np.array_split(np.arange(NUM_VIDEOS), 2):
        frames, alone = features()
        BATCH_LOSSES[name](frames[part] * alone).backward()
        apart += alone.grad * len(part) / NUM_VIDEOS
    assert (apart - weights.grad).abs().max() > 1e-3 * weights.grad.abs().max()
