import logging
import math
import threading
import types

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import cpp_builder

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.layers.text_cache import fixed_parameters
from evclip_ray.models.methods import METHODS
from evclip_ray.testing.cases import find_cases, load_networks, random_videos
from evclip_ray.training import compiled
from evclip_ray.training.build import build_method
from evclip_ray.training.compiled import REPAYING_STEPS, is_compiled
from evclip_ray.training.distributed import Workers
from evclip_ray.training.loop import Run
from evclip_ray.training.step import TrainingStep
from evclip_ray.training.validation import has_text_cache

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CLASSES = ("opening a door", "pouring water")


def forget():
    compiled.compiled_forward.cache_clear()
    compiled.compiled_forward_alone.cache_clear()
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "_failures", [])
    forget()
    yield
    forget()


def use_backend(monkeypatch, backend):
    monkeypatch.setattr(compiled, "_BACKEND", backend)
    return backend


def make_step(make_experiment, seed=0, **overrides):
    experiment = make_experiment(seed=seed, **overrides)
    method = build_method(experiment, CLASSES, device=CPU).train()
    return TrainingStep(method, experiment, workers=Workers(), device=CPU, dtype=None)


def take(step, size=2):
    random = torch.Generator().manual_seed(0)
    batch = VideoBatch(
        torch.rand(size, 4, 3, 64, 64, generator=random), labels=torch.arange(size).remainder(2)
    )
    result = step(batch, rate=1e-3, num_videos=size, generator=random)
    return sum(float(term) for term in result.terms.values())


@pytest.mark.parametrize(
    ("setting", "device", "steps", "options", "expected"),
    [
        ("auto", CPU, 10**6, {}, False),
        ("auto", GPU, REPAYING_STEPS, {}, True),
        ("auto", GPU, REPAYING_STEPS - 1, {}, False),
        ("auto", GPU, REPAYING_STEPS, {"num_workers": 2}, False),
        ("auto", GPU, REPAYING_STEPS, {"has_fixed_shapes": False}, False),
        ("on", CPU, 1, {}, True),
        ("off", GPU, 10**6, {}, False),
    ],
)
def test_setting_decides_what_is_compiled(setting, device, steps, options, expected):
    assert is_compiled(setting, device, num_steps=steps, **options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 2}, "compile=on: a run on 2 workers is not compiled; set compile=auto"),
        ({"has_fixed_shapes": False}, "compile=on: the method encodes .* set compile=auto"),
    ],
)
def test_required_compilation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        is_compiled("on", CPU, num_steps=1, **options)


def broken(graph, inputs):
    raise RuntimeError("no C++ compiler")


LINEAR = {"method": {"name": "linear_probe"}}


def test_failure_to_compile_warns_once_and_goes_on_eagerly(make_experiment, monkeypatch, caplog):
    use_backend(monkeypatch, broken)
    monkeypatch.setattr("evclip_ray.training.step.is_compiled", lambda *args, **kwargs: True)
    expected = take(make_step(make_experiment, **LINEAR, compile="off"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            step = make_step(make_experiment, **LINEAR)
            assert take(step) == expected
            take(step)
    assert caplog.text.count("could not be compiled and runs eagerly") == 1
    assert "no C++ compiler" in caplog.text


def test_required_compilation_that_fails_is_an_error(make_experiment, monkeypatch):
    use_backend(monkeypatch, broken)
    with pytest.raises(ConfigError, match=r"compile=on: .*no C\+\+ compiler.*set compile=auto"):
        take(make_step(make_experiment, **LINEAR, compile="on"))


def test_runs_share_compiled_code_for_two_sizes_of_a_batch(make_experiment, monkeypatch):
    counter = use_backend(monkeypatch, CompileCounterWithBackend("eager"))
    for seed in (0, 1):
        step = make_step(make_experiment, seed, **LINEAR, compile="on")
        for size in (2, 3, 2, 3):
            take(step, size)
    assert counter.frame_count == 2


def test_trials_in_other_threads_are_compiled_too(monkeypatch):
    counter = use_backend(monkeypatch, CompileCounterWithBackend("eager"))
    method = types.SimpleNamespace(losses=lambda output, labels: {"sum": (output * labels).sum()})

    def run(sizes):
        for size in sizes:
            values = torch.ones(size)
            compiled.compiled_forward()(torch.nn.Identity(), method, values, values, CPU, None)

    for sizes in (range(2, 4), range(4, 14)):
        thread = threading.Thread(target=run, args=(sizes,))
        thread.start()
        thread.join()
    assert counter.frame_count == 12


@pytest.mark.slow
def test_compiled_step_of_ev_clip_agrees_with_eager(make_experiment):
    losses = {}
    for setting in ("off", "on"):
        step = make_step(make_experiment, compile=setting)
        losses[setting] = [take(step) for _ in range(3)]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)


@pytest.mark.slow
def test_failure_to_compile_the_backward_pass_falls_back(make_experiment, monkeypatch, caplog):
    def backward(graph, inputs):
        raise BackendCompilerFailed(broken, RuntimeError("no memory for the graph"), None)

    use_backend(monkeypatch, aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=backward))
    monkeypatch.setattr("evclip_ray.training.step.is_compiled", lambda *args, **kwargs: True)
    assert math.isfinite(take(make_step(make_experiment)))
    assert "no memory for the graph" in caplog.text


FIXED = [case for case in find_cases(METHODS) if case.method != "ez_clip"]


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED, ids=str)
def test_every_method_with_fixed_shapes_is_one_graph(case, monkeypatch):
    counter = use_backend(monkeypatch, CompileCounterWithBackend("eager"))
    batch, losses = random_videos(2), []
    # The third method is that of another trial, with weights of its own.
    for forward in (compiled.forward_and_losses, compiled.compiled_forward(), compiled.compiled_forward()):
        method = case.build(load_networks())
        assert method.has_fixed_shapes
        torch.manual_seed(0)
        losses.append(forward(method, method, batch, batch.labels, CPU, None)[1])
    torch.testing.assert_close(losses[1], losses[0])
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED, ids=str)
def test_validation_of_every_method_is_one_graph_or_none(case, monkeypatch):
    counter = use_backend(monkeypatch, CompileCounterWithBackend("eager"))
    method = case.build(load_networks()).eval()
    if has_text_cache(method):
        pytest.skip("validation of methods with trained texts is not compiled")
    batch, logits = random_videos(2), []
    with torch.no_grad():
        for forward in (compiled.forward_alone, compiled.compiled_forward_alone()):
            # As in two epochs.
            for _ in range(2):
                with fixed_parameters():
                    logits.append(forward(method, batch, CPU, None).logits)
    torch.testing.assert_close(logits[3], logits[0])
    assert counter.frame_count == 1


def test_full_batches_of_validation_are_compiled(make_experiment, tiny_videos, tmp_path, monkeypatch):
    counter = use_backend(monkeypatch, CompileCounterWithBackend("eager"))
    losses = []
    for setting in ("off", "on"):
        # Six videos: one full batch and a rest.
        experiment = make_experiment(**LINEAR, compile=setting, optim__epochs=1, optim__eval_batch_size=4)
        run = Run.start(experiment, tiny_videos, folder=tmp_path / setting, device=CPU)
        for _ in range(2):
            losses.append(run.validate()[0].log_loss)
    assert losses == pytest.approx(losses[:1] * 4)
    assert counter.frame_count == 1


def test_failed_compilation_of_validation_goes_on_eagerly(
    make_experiment, tiny_videos, tmp_path, monkeypatch
):
    use_backend(monkeypatch, broken)
    experiment = make_experiment(**LINEAR, optim__epochs=1, optim__eval_batch_size=4)
    run = Run.start(experiment, tiny_videos, folder=tmp_path, device=CPU)
    expected = run.validate()[0].log_loss
    run.validate.is_compiled = True
    assert run.validate()[0].log_loss == expected
    assert not compiled.can_compile()


@pytest.mark.slow
def test_machine_without_a_compiler_is_named(make_experiment, monkeypatch, tmp_path):
    # Cached code needs no compiler.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(ConfigError, match=r"compile=on: .*[Cc]\+\+ compiler.* set compile=auto"):
        take(make_step(make_experiment, **LINEAR, compile="on"))
    cpp_builder.cpp_compiler_search.cache_clear()
