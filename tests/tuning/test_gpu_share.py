import dataclasses
import types

import pytest
import torch

from evclip_ray.training.resources import GIB, GpuMemory, ResourceRequest, trials_per_gpu
from evclip_ray.tuning.gpu_share import GpuShare, gpu_share, largest_trials, may_share
from evclip_ray.tuning.search_space import SearchSpace

REQUEST = ResourceRequest(cpus=1, gpus=1, memory=GIB)
HOST = {"CPU": 16.0, "GPU": 1.0, "memory": 64.0 * GIB}
CARD = 80 * GIB


def make_space(**study):
    fixed = {"data.manifest": "videos.csv", "backbone.pretrained": "random"}
    search = {
        "backbone.name": {"choice": ["debug", "ViT-B-32"]},
        "method.context.tokens": {"int": [1, 8]},
        "optim.batch_size": {"choice": [4, 16]},
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
    largest = largest_trials(make_space(), points)
    sizes = [(each.backbone.name, each.method.context.tokens, each.optim.batch_size) for each in largest]
    assert sizes == [("debug", 8, 16), ("ViT-B-32", 8, 16)]


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


def test_study_whose_largest_trial_does_not_fit_still_runs(caplog):
    def share(setting):
        def measure(experiment, classes, cpus):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        places = {"points": [{"backbone.name": "debug"}], "classes": ["a"], "measure": measure}
        return gpu_share(make_space(trials_per_gpu=setting), REQUEST, [HOST], **places)

    assert share("auto") == GpuShare(1)
    assert "the largest trial of the study does not fit in the memory of a GPU" in caplog.text
    with pytest.raises(ValueError, match=r"trials_per_gpu=2: the memory of the GPU is used up \(20.00 GiB"):
        share(2)


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
