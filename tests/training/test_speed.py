import dataclasses
import os
import time
import types

import pytest
import torch

from evclip_ray.models.batch import VideoBatch
from evclip_ray.profiling.counted import count_cost
from evclip_ray.profiling.synthetic_step import random_batch
from evclip_ray.training import speed
from evclip_ray.training import useful_flop as flop_module
from evclip_ray.training.build import build_method
from evclip_ray.training.matrix_rate import MatrixRate
from evclip_ray.training.speed import InputClock, SpeedMeter
from evclip_ray.training.useful_flop import useful_flop

CLASSES = ["opening a door", "pouring water", "walking"]
CPU = torch.device("cpu")
META = torch.device("meta")


def step_flop(experiment, **changes):
    method = build_method(experiment, CLASSES, device=META)
    batch = random_batch(method, experiment, size=4, num_classes=3, device=META)
    return useful_flop(experiment, CLASSES, dataclasses.replace(batch, **changes))


def test_useful_flop_is_forward_and_backward_of_the_method(make_experiment):
    experiment = make_experiment(optim__batch_size=4)
    counted = count_cost(experiment, CLASSES)
    assert step_flop(experiment) == pytest.approx(8e9 * sum(counted.training_gmac.values()))


def test_recomputed_activations_are_not_useful(make_experiment):
    plain, checkpointed = (
        step_flop(make_experiment(backbone__activation_checkpointing=setting)) for setting in (False, True)
    )
    assert checkpointed == plain


def test_features_from_disk_are_not_useful(make_experiment):
    experiment = make_experiment()
    encoder = build_method(experiment, CLASSES, device=META).frozen.video_encoder
    video_map = encoder(encoder.prepare(torch.empty(4, 4, 3, 64, 64, device=META)))
    assert step_flop(experiment, video_map=video_map.bfloat16()) < step_flop(experiment)


class FakeStep:
    """Step that counts how often gradients are computed."""

    device, dtype = CPU, None

    def __init__(self, error=None):
        self.error, self.bare = error, 0

    def gradients_alone(self, batch):
        self.bare += 1
        if self.error:
            raise self.error


@pytest.fixture
def meter(monkeypatch):
    """Return a function that makes a meter on a device of 1 TFLOP/s, for steps of 8 videos and 80 GFLOP."""
    rate = MatrixRate(1e12, "a processor", "float32", 1)
    monkeypatch.setattr(speed, "matrix_rate", lambda *_: rate)
    monkeypatch.setattr(speed, "useful_flop", lambda *_: 8e10)
    # Each gradient takes a second on this clock.
    ticks = iter(range(10**6))
    monkeypatch.setattr(speed, "time", types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    return lambda step=None: SpeedMeter(None, CLASSES, step or FakeStep(), cache=None)


BATCH = VideoBatch(None, labels=torch.zeros(8))
EPOCH = {"videos": 8.0, "seconds": 2.0, "waited": 0.5}


def test_shares_of_an_epoch(meter):
    step = FakeStep()
    measured = meter(step)
    measured.begin(1000)
    # 80 GFLOP in 2 s on 1 TFLOP/s, a bare step of 1 s, half a second of input.
    expected = {"matrix_share": 0.04, "bare_share": 0.5, "wait_share": 0.25}
    assert measured.shares(BATCH, **EPOCH) == pytest.approx(expected)
    assert measured.spent() > 0
    assert measured.spent() == 0
    measured.shares(BATCH, **EPOCH)
    assert step.bare == 3, "a run is measured once"
    assert measured.record()["speed"] == {
        "useful_flop_per_video": 1e10,
        "bare_videos_per_second": 8.0,
        "matrix_flop_per_second": 1e12,
        "matrix_format": "float32",
        "device": "a processor",
        "threads": 1,
    }


def test_short_run_has_only_the_wait(meter):
    step = FakeStep()
    measured = meter(step)
    measured.begin(speed.MIN_STEPS - 1)
    assert measured.shares(BATCH, **EPOCH) == {"wait_share": 0.25}
    assert (step.bare, measured.record()) == (0, {})


def test_long_step_is_not_repeated(meter):
    step = FakeStep()
    measured = meter(step)
    measured.begin(1000)
    assert set(measured.shares(BATCH, videos=8, seconds=60.0, waited=0)) == {"matrix_share", "wait_share"}
    assert step.bare == 0


def test_failed_measurement_is_a_warning(meter, caplog):
    measured = meter(FakeStep(torch.OutOfMemoryError("no memory\nis left")))
    measured.begin(1000)
    assert set(measured.shares(BATCH, **EPOCH)) == {"matrix_share", "wait_share"}
    assert "the speed of the bare model was not measured: no memory is left" in caplog.text


def test_equal_shapes_are_counted_once(make_experiment, monkeypatch):
    experiment = make_experiment()
    step_flop(experiment)
    monkeypatch.setattr(flop_module, "_counted", lambda *_: pytest.fail("counted again"))
    step_flop(experiment.model_copy(update={"seed": 5}))


@pytest.mark.gpu
def test_wait_is_that_of_the_device():
    device = torch.device(os.environ.get("EVCLIP_RAY_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is visible")
    waits = {}
    for is_busy in (False, True):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            if is_busy:
                # About a second of work, during which the host waits for input.
                torch.cuda._sleep(2 * 10**9)
        clock = InputClock(device)
        with clock.waiting():
            time.sleep(0.1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        waits[is_busy] = clock.seconds()
    assert waits[False] > 0.09
    assert device.type == "cpu" or waits[True] < 0.01
