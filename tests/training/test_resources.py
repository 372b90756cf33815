import pytest

from evclip_ray.training.resources import GIB, ResourceRequest, concurrent_trials, trial_slots

NODE = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB}


@pytest.mark.parametrize(
    ("resources", "nodes", "expected"),
    [
        (ResourceRequest(1, 0, GIB), [NODE], 16),
        (ResourceRequest(1, 1, GIB), [NODE], 2),
        (ResourceRequest(1, 0.5, GIB), [NODE], 4),
        (ResourceRequest(1, 1 / 3, GIB), [NODE], 6),
        (ResourceRequest(1, 0, 30 * GIB), [NODE], 2),
        (ResourceRequest(4, 1, GIB), [NODE, {"CPU": 8.0, "memory": 64.0 * GIB}], 2),
        (ResourceRequest(1, 1, GIB, workers=4), [NODE, NODE], 1),
        (ResourceRequest(2, 1, GIB, workers=2), [NODE, NODE], 2),
        (ResourceRequest(1, 1, GIB, workers=4, min_workers=1), [NODE, NODE, NODE], 1),
        (ResourceRequest(1, 1, GIB, workers=4, min_workers=1), [NODE], 1),
    ],
)
def test_scarcest_resource_limits_concurrent_trials(resources, nodes, expected):
    assert concurrent_trials(resources, nodes) == expected


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        (ResourceRequest(1, 4, GIB), [NODE, NODE]),  # No single machine has four GPUs.
        (ResourceRequest(32, 0, GIB), [NODE]),
        (ResourceRequest(1, 0, 100 * GIB), [NODE]),
        (ResourceRequest(1, 1, GIB, workers=5), [NODE, NODE]),
        (ResourceRequest(1, 1, GIB, workers=8, min_workers=3), [NODE]),
        (ResourceRequest(1, 0, GIB), []),
    ],
)
def test_trial_that_never_fits_names_the_numbers(resources, nodes):
    with pytest.raises(ValueError, match="but the cluster has"):
        concurrent_trials(resources, nodes)


def test_slots_are_counted_in_whole_groups():
    resources = ResourceRequest(1, 1, GIB, workers=4, min_workers=1)
    assert [trial_slots(resources, [NODE] * count) for count in (0, 1, 2, 4)] == [0, 0, 1, 2]


@pytest.mark.parametrize("fewest", [0, 3])
def test_min_workers_out_of_range_is_refused(fewest):
    with pytest.raises(ValueError, match=f"min_workers must be between 1 and workers \\(2\\), got {fewest}"):
        ResourceRequest(1, 0, GIB, workers=2, min_workers=fewest)


@pytest.mark.parametrize(
    ("gpus", "workers", "message"),
    [
        (0.5, 2, "2 workers with 0.5 GPU each: NCCL refuses .* Give --gpus-per-worker 1, or 0"),
        (1.5, 1, "--gpus-per-worker 1.5: Ray assigns parts of one GPU or whole GPUs"),
    ],
)
def test_gpus_that_cannot_be_assigned_are_refused(gpus, workers, message):
    with pytest.raises(ValueError, match=message):
        ResourceRequest(1, gpus, GIB, workers=workers)


def test_request_prints_its_range_of_workers():
    assert (
        str(ResourceRequest(1, 0, GIB, workers=4, min_workers=2)) == "2 to 4 workers of 1 CPU, 0 GPU, 1.0 GiB"
    )
    assert str(ResourceRequest(1, 0, GIB, workers=4, min_workers=4)) == "4 workers of 1 CPU, 0 GPU, 1.0 GiB"
