import gc
import logging

import pytest
import torch

from evclip_ray.models.batch import VideoBatch
from evclip_ray.training import step_graphs
from evclip_ray.training.build import build_method
from evclip_ray.training.distributed import Workers
from evclip_ray.training.step import TrainingStep
from evclip_ray.training.step_graphs import REPAYING_STEPS, StepGraphs, may_use_graphs

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CLASSES = ("opening a door", "pouring water")
SIZES = (2, 3, 2, 2, 3, 2, 2, 3, 3, 2, 3, 2)


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        ({}, {}, True),
        ({"compile": "on"}, {}, True),
        ({"compile": "off"}, {}, False),
        ({"data__augment__mixup": 0.2}, {}, False),
        ({"backbone__activation_checkpointing": True}, {}, False),
        ({}, {"device": CPU}, False),
        ({}, {"device": torch.device("cuda", 1)}, False),
        ({}, {"num_steps": REPAYING_STEPS - 1}, False),
        ({}, {"num_workers": 2}, False),
        ({}, {"has_fixed_shapes": False}, False),
    ],
)
def test_settings_and_sizes_decide_who_may_use_graphs(
    make_experiment, monkeypatch, settings, changes, expected
):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    run = {"device": GPU, "num_steps": REPAYING_STEPS, "has_fixed_shapes": True} | changes
    assert may_use_graphs(make_experiment(**settings), **run) == expected


class FakeRecorder:
    """Recorder whose graphs run the recorded function again, and write to the same tensors as before."""

    parameters = ()
    waits, error = False, None

    def rehearse(self, run):
        return run(), self.waits

    def record(self, run):
        if self.error is not None:
            raise self.error
        outputs = run()
        gradients = [parameter.grad for parameter in self.parameters]
        for tensor in (*gradients, outputs.norm):
            tensor.fill_(float("nan"))

        def replay():
            again = run()
            for old, parameter in zip(gradients, self.parameters, strict=True):
                old.copy_(parameter.grad)
            outputs.norm.copy_(again.norm)
            outputs.is_finite.copy_(again.is_finite)
            for name, term in outputs.terms.items():
                term.copy_(again.terms[name])

        return replay, outputs


@pytest.fixture
def recorder(monkeypatch):
    class Own(FakeRecorder):
        pass

    monkeypatch.setattr(step_graphs, "_failures", [])
    monkeypatch.setattr(step_graphs, "_captures", [])
    monkeypatch.setattr(step_graphs, "_recorder", None)
    monkeypatch.setattr(step_graphs, "Recorder", Own)
    monkeypatch.setattr(step_graphs, "timed_launches", lambda run: (run(), 0.01))
    monkeypatch.setattr(step_graphs, "missing_memory", lambda: None)
    return Own


def take_all(make_experiment, recorder, *, with_graphs, sizes=SIZES):
    experiment = make_experiment(method={"name": "linear_probe"}, optim__clip_norm=1.0)
    method = build_method(experiment, CLASSES, device=CPU).train()
    step = TrainingStep(method, experiment, workers=Workers(), device=CPU, dtype=None)
    if with_graphs:
        recorder.parameters = list(method.parameters())
        step.graphs = StepGraphs(step._gradients_of, recorder.parameters)
    random, results = torch.Generator().manual_seed(0), []
    for size in sizes:
        pixels = torch.rand(size, 4, 3, 64, 64, generator=random)
        batch = VideoBatch(pixels, labels=torch.randint(2, (size,), generator=random))
        results.append(step(batch, rate=1e-2, num_videos=size, generator=random))
    # Read after the last step: results of earlier steps must not be those of a later one.
    values = [(*map(float, result.terms.values()), float(result.norm)) for result in results]
    return values, list(method.parameters()), step


def assert_as_without_graphs(make_experiment, recorder):
    expected, weights, _ = take_all(make_experiment, recorder, with_graphs=False)
    values, got, step = take_all(make_experiment, recorder, with_graphs=True)
    assert values == expected
    assert all(torch.equal(*pair) for pair in zip(got, weights, strict=True))
    return step


def test_steps_with_graphs_are_those_without(make_experiment, recorder):
    step = assert_as_without_graphs(make_experiment, recorder)
    assert step.graphs.num_graphs == 2, "one for each size of a batch"


def test_steps_that_keep_the_gpu_busy_use_no_graphs(make_experiment, recorder, monkeypatch):
    monkeypatch.setattr(step_graphs, "timed_launches", lambda run: (run(), 0.3))
    step = assert_as_without_graphs(make_experiment, recorder)
    assert (step.graphs.is_wanted, step.graphs.num_graphs) == (False, 0)


@pytest.mark.parametrize(
    ("changes", "missing", "reason"),
    [
        ({"error": RuntimeError("CUDA error: operation not permitted\nmore")}, None, "not permitted"),
        ({"error": torch.OutOfMemoryError("CUDA out of memory.")}, None, "CUDA out of memory"),
        ({"waits": True}, None, "reads values of the GPU in Python"),
        ({}, "2 GiB of GPU memory are needed, 1 GiB are free", "2 GiB of GPU memory are needed"),
    ],
)
def test_failed_capture_goes_on_without_graphs(
    make_experiment, recorder, monkeypatch, caplog, changes, missing, reason
):
    for name, value in changes.items():
        setattr(recorder, name, value)
    monkeypatch.setattr(step_graphs, "missing_memory", lambda: missing)
    with caplog.at_level(logging.WARNING):
        step = assert_as_without_graphs(make_experiment, recorder)
    assert step.graphs.num_graphs == 0
    assert [reason in record.message for record in caplog.records] == [True]


def test_runs_of_a_process_share_the_memory_of_their_graphs(make_experiment, recorder):
    runs = [take_all(make_experiment, recorder, with_graphs=True)[2] for _ in range(2)]
    assert runs[0].graphs._recorder is runs[1].graphs._recorder
    assert step_graphs.were_used()
    del runs
    gc.collect()
    assert step_graphs._recorder() is None


def test_failed_capture_is_not_tried_by_later_runs(make_experiment, recorder):
    recorder.error = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    take_all(make_experiment, recorder, with_graphs=True)
    recorder.error = None
    *_, step = take_all(make_experiment, recorder, with_graphs=True)
    assert step.graphs.num_graphs == 0


def test_full_gpu_releases_the_graphs_and_repeats_the_step(make_experiment, recorder, caplog):
    *_, step = take_all(make_experiment, recorder, with_graphs=True)
    attempts, compute = [], step.graphs._compute

    def full(batch):
        attempts.append(len(batch.labels))
        if len(attempts) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return compute(batch)

    step.graphs._compute = full
    batch = VideoBatch(torch.rand(4, 4, 3, 64, 64), labels=torch.zeros(4, dtype=torch.int64))
    result = step(batch, rate=1e-2, num_videos=4, generator=torch.Generator())
    assert (attempts, step.graphs.num_graphs, bool(result.is_finite)) == ([4, 4], 0, True)
    assert "CUDA out of memory. Tried to allocate 20 MiB" in caplog.text
