import dataclasses
import types

import pytest
import torch

from evclip_ray.training.resources import GIB, GpuMemory, ResourceRequest, trials_per_gpu
from evclip_ray.tuning.gpu_share import GpuShare, extreme_trials, gpu_share, may_share, why_not_shared
from evclip_ray.tuning.search_space import SearchSpace

REQUEST = ResourceRequest(cpus=1, gpus=1, memory=GIB)
HOST = {"CPU": 16.0, "GPU": 1.0, "memory": 64.0 * GIB}
CARD = 80 * GIB


def make_space(searched=None, **study):
    fixed = {"data.manifest": "videos.csv", "backbone.pretrained": "random"}
    search = {
        "backbone.name": {"choice": ["debug", "ViT-B-32"]},
        "method.context.tokens": {"int": [1, 8]},
        "optim.batch_size": {"choice": [4, 16]},
        **(searched or {}),
    }
    return SearchSpace.load("mine", {"fixed": fixed, "search": search, "study": study})


@pytest.mark.parametrize(
    ("needed", "host", "expected"),
    [
        (30 * GIB, HOST, 2),
        (2 * GIB, HOST, 8),
        (2 * GIB, {**HOST, "CPU": 3.0}, 3),
        (2 * GIB, {**HOST, "GPU": 4.0}, 4),
        (2 * GIB, {**HOST, "memory": 5.0 * GIB}, 5),
        (60 * GIB, HOST, 1),
        # More than trials may fill together, but it was measured on this GPU.
        (79 * GIB, HOST, 1),
        (2 * GIB, {**HOST, "CPU": 0.5}, 1),
    ],
)
def test_memory_and_cpus_limit_the_trials_of_a_gpu(needed, host, expected):
    # A machine without a GPU does not count.
    nodes = [host, {"CPU": 2.0, "memory": GIB}]
    assert trials_per_gpu(REQUEST, nodes, GpuMemory(needed, CARD)) == expected


@pytest.mark.parametrize(
    ("needed", "wanted", "message"),
    [
        (79, 2, r"needs 79.6 of 80 GiB of GPU memory, so 2 trials do not fit. Set .* to at most 1, or auto"),
        (
            20,
            4,
            r"needs 20.6 of 80 GiB .* 4 trials do not fit. Set study.trials_per_gpu to at most 3, or auto",
        ),
    ],
)
def test_gpu_without_enough_memory_is_named_with_numbers(needed, wanted, message):
    with pytest.raises(ValueError, match=message):
        trials_per_gpu(REQUEST, [HOST], GpuMemory(needed * GIB, CARD), wanted=wanted)


def test_largest_trial_of_each_backbone_is_measured():
    points = [{"backbone.name": "debug"}, {"backbone.name": "ViT-B-32"}]
    for choose, tokens, batch_size in ((max, 8, 16), (min, 1, 4)):
        trials = extreme_trials(make_space(), points, choose).values()
        sizes = [(each.backbone.name, each.method.context.tokens, each.optim.batch_size) for each in trials]
        assert sizes == [("debug", tokens, batch_size), ("ViT-B-32", tokens, batch_size)]


@pytest.mark.parametrize("frames", [(4, 8), (8, 4)])
def test_numbers_of_frames_decide_in_any_order(frames):
    points = [{"backbone.name": "debug", "view.num_frames": count} for count in frames]
    for choose in (max, min):
        (trial,) = extreme_trials(make_space(), points, choose).values()
        assert trial.view.num_frames == choose(frames)


@pytest.mark.parametrize("values", [[True, False], [False, True]])
@pytest.mark.parametrize("is_searched", [True, False])
def test_recomputed_activations_are_the_smaller_trial(values, is_searched):
    path = "backbone.activation_checkpointing"
    space = make_space({path: {"choice": values}} if is_searched else None)
    points = [{"backbone.name": "debug"} | ({} if is_searched else {path: value}) for value in values]
    for choose in (max, min):
        (trial,) = extreme_trials(space, points, choose).values()
        assert trial.backbone.activation_checkpointing == choose(values, key=lambda value: not value)


@pytest.mark.parametrize(("setting", "expected"), [("auto", 3), (2, 2)])
def test_largest_measured_trial_decides_the_share(setting, expected):
    def measure(experiment, classes, cpus):
        needed = {"debug": 1, "ViT-B-32": 20}[experiment.backbone.name] * GIB
        return types.SimpleNamespace(memory=GpuMemory(needed, CARD))

    points = [{"backbone.name": "ViT-B-32"}, {"backbone.name": "debug"}]
    share = gpu_share(
        make_space(trials_per_gpu=setting),
        REQUEST,
        [HOST],
        points=points,
        classes=["a"],
        measure=measure,
    )
    assert share.count == expected
    assert str(share) == f"{expected} trials share a GPU (a trial needs 20.6 of 80 GiB of GPU memory)"


FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.60 GiB of which 1 GiB"
)


def share_on_small_gpu(setting, largest_batch):
    """Return the share on a GPU on which trials with larger batches do not fit."""

    def measure(experiment, classes, cpus):
        if experiment.optim.batch_size > largest_batch:
            raise FULL
        return types.SimpleNamespace(memory=GpuMemory(GIB, 16 * GIB))

    places = {"points": [{"backbone.name": "debug"}], "classes": ["a"], "measure": measure}
    return gpu_share(make_space(trials_per_gpu=setting), REQUEST, [HOST], **places)


def test_study_whose_largest_trial_does_not_fit_still_runs(caplog):
    assert share_on_small_gpu("auto", 4) == GpuShare(1)
    assert "the largest trial of the study does not fit on a GPU" in caplog.text
    assert "20.00 GiB more are needed, it has 15.60 GiB" in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("auto", r"no trial of the study fits on a GPU: .* \(20.00 GiB more are needed, it has 15.60 GiB\)"),
        (2, r"trials_per_gpu=2: the memory of the GPU is used up \(20.00 GiB more are needed, it has 15.60"),
    ],
)
def test_gpu_that_is_too_small_for_a_trial_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        share_on_small_gpu(setting, 2)


def test_set_number_holds_where_nothing_can_be_measured():
    measure = lambda *args: types.SimpleNamespace(memory=None)  # noqa: E731
    places = {"points": [{"backbone.name": "debug"}], "classes": ["a"], "measure": measure}
    shares = [
        gpu_share(make_space(trials_per_gpu=setting), REQUEST, [HOST], **places) for setting in (2, "auto")
    ]
    assert shares == [GpuShare(2), GpuShare(1)]


def test_shares_of_a_gpu_fit_in_ray_units():
    for count in range(1, 17):
        assert GpuShare(count).apply(REQUEST).gpus * count <= 1


@pytest.mark.parametrize(
    ("study", "request_changes", "expected"),
    [
        ({}, {}, True),
        ({}, {"gpus": 0}, False),
        ({}, {"workers": 2}, False),
        ({"gpus": 0.5}, {}, False),
        ({"trials_per_gpu": 1}, {}, False),
    ],
)
def test_trials_share_a_gpu_unless_resources_are_set(study, request_changes, expected):
    request = dataclasses.replace(REQUEST, **request_changes)
    assert may_share(make_space(**study), request) == expected


@pytest.mark.parametrize(
    ("study", "request_changes", "reason"),
    [
        ({}, {"gpus": 0}, ""),
        ({"trials_per_gpu": 1}, {}, ""),
        ({"trials_per_gpu": 4}, {"gpus": 0}, "trials_per_gpu=4 has no effect, because no machine has a GPU"),
        ({"trials_per_gpu": 4, "gpus": 0.5}, {"gpus": 0.5}, "no effect, because --gpus-per-worker"),
        ({}, {"workers": 2}, "each worker has a whole GPU, because NCCL refuses two workers"),
    ],
)
def test_plan_names_why_trials_do_not_share(study, request_changes, reason):
    text = why_not_shared(make_space(**study), dataclasses.replace(REQUEST, **request_changes))
    assert reason in text
    assert bool(reason) == bool(text)


def test_trials_per_gpu_of_groups_are_refused():
    space, request = make_space(trials_per_gpu=2), dataclasses.replace(REQUEST, workers=2)
    with pytest.raises(ValueError, match=r"trials_per_gpu=2: each of the 2 workers .* --workers 1"):
        may_share(space, request)
