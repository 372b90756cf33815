import pytest
import torch
from host_reads import HostReads

from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods import METHODS
from evclip_ray.training import optim
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import set_moments
from evclip_ray.training.distributed import Diverged, Workers
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.step import EpochSums, StepResult, TrainingStep

CPU = torch.device("cpu")
CLASSES = ("opening a door", "pouring water")


def make_step(make_experiment, device=CPU, method="ev_clip", **overrides):
    experiment = make_experiment(optim__clip_norm=1.0, **overrides)
    if method != "ev_clip":
        experiment = ExperimentConfig.load({**experiment.model_dump(mode="json"), "method": {"name": method}})
    method = build_method(experiment, CLASSES, device=device).train()
    return TrainingStep(method, experiment, workers=Workers(), device=device, dtype=None)


def batch_on(device=CPU, *, infinite=False):
    pixels = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if infinite:
        pixels[0] = torch.inf
    labels = torch.tensor([0, 1], device=device)
    return VideoBatch(pixels.to(device), labels=labels, classes=labels)


def take(step, batch):
    return step(batch, rate=0.1, num_videos=2, generator=torch.Generator().manual_seed(0))


def trained_tensors(step):
    return {name: value.detach().clone() for name, value in step.method.named_parameters()}


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(optim, "runs_fused", lambda parameters: True)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"zero_shot"}))
def test_fused_step_reads_no_value_of_a_tensor(make_experiment, fused, method):
    step = make_step(make_experiment, method=method)
    take(step, batch_on())
    sums = EpochSums(num_videos=2, num_steps=1, workers=Workers())
    with HostReads() as reads:
        sums.add(take(step, batch_on()), 2)
    assert reads.count == 0
    assert sums.read()["train_loss"] > 0


@pytest.mark.parametrize("kernel", ["loop", "fused"])
def test_step_with_an_infinite_loss_changes_nothing(make_experiment, kernel, request):
    if kernel == "fused":
        request.getfixturevalue("fused")
    step = make_step(make_experiment)
    take(step, batch_on())
    before = trained_tensors(step)
    result = take(step, batch_on(infinite=True))
    assert not result.is_finite
    after = trained_tensors(step)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {float(state["step"]) for state in step.optimizer.state.values()} == {1.0}
    sums = EpochSums(num_videos=4, num_steps=2, workers=Workers())
    sums.add(result, 2)
    sums.add(take(step, batch_on()), 2)
    with pytest.raises(Diverged, match="the loss or its gradient is not finite"):
        sums.read()


def test_fused_optimiser_continues_the_moments_of_the_loop(make_experiment, monkeypatch):
    loop = make_step(make_experiment)
    take(loop, batch_on())
    monkeypatch.setattr(optim, "runs_fused", lambda parameters: True)
    fused = make_step(make_experiment)
    fused.method.load_state_dict(loop.method.state_dict())
    moments = {
        f"{name}::{key}": value.clone()
        for name, parameter in loop.method.named_parameters()
        for key, value in loop.optimizer.state[parameter].items()
    }
    set_moments(fused.method, fused.optimizer, moments)
    for step in (loop, fused):
        take(step, batch_on())
    expected, got = trained_tensors(loop), trained_tensors(fused)
    assert all(torch.allclose(got[name], expected[name], atol=1e-5) for name in expected)


def test_epoch_sums_weigh_batches_by_their_videos():
    sums = EpochSums(num_videos=3, num_steps=2, workers=Workers())
    for loss, norm, num_videos in ((3.0, 1.0, 2), (6.0, 3.0, 1)):
        terms = {"cross_entropy": torch.tensor(loss), "consistency": torch.tensor(loss / 3)}
        sums.add(StepResult(terms, torch.tensor(norm), torch.tensor(True)), num_videos)
    expected = {"train_loss": 16 / 3, "train_cross_entropy": 4, "train_consistency": 4 / 3, "grad_norm": 2}
    assert sums.read() == pytest.approx(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_step_on_a_gpu_does_not_wait_for_it(make_experiment, mixup):
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible")
    device = torch.device("cuda", 0)
    step = make_step(make_experiment, device, data__augment__mixup=mixup)
    batch = batch_on(device)
    sums = EpochSums(num_videos=4, num_steps=2, workers=Workers())
    sums.add(take(step, batch), 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums.add(take(step, batch), 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sums.read()["train_loss"] > 0
