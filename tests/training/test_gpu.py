"""Behaviour that needs a GPU. `EVCLIP_RAY_TEST_DEVICE=cpu` runs what a CPU can, to test the tests."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from evclip_ray.artifacts import read_history
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.features.batches import JOBS_AT_ONCE, BatchSize, in_batches
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.encode import run_job
from evclip_ray.features.extract import view_jobs
from evclip_ray.features.spec import frame_features
from evclip_ray.models.batch import VideoBatch
from evclip_ray.testing.cases import load_networks, random_videos
from evclip_ray.training.build import autocast_dtype, build_method
from evclip_ray.training.distributed import Workers
from evclip_ray.training.loop import Run
from evclip_ray.training.step import TrainingStep
from evclip_ray.training.step_graphs import REPAYING_STEPS
from evclip_ray.tuning import gpu_turns

pytestmark = pytest.mark.gpu
CLASSES = ("opening a door", "pouring water")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def device():
    chosen = torch.device(os.environ.get("EVCLIP_RAY_TEST_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU is visible")
    return chosen


def step_on(experiment, device, *, num_steps=0):
    method = build_method(experiment, CLASSES, device=device).train()
    dtype = autocast_dtype(experiment, device)
    return TrainingStep(
        method, experiment, workers=Workers(), device=device, dtype=dtype, num_steps=num_steps
    )


def steps_on(experiment, device, count=4):
    """Return the loss of each of `count` steps on the same batch."""
    step = step_on(experiment, device)
    pixels = random_videos(4, num_frames=4).pixels.to(device)
    batch = VideoBatch(pixels, labels=torch.tensor([0, 1, 0, 1], device=device))
    random = torch.Generator().manual_seed(0)
    results = [step(batch, rate=1e-3, num_videos=4, generator=random) for _ in range(count)]
    return [sum(float(term) for term in result.terms.values()) for result in results]


def test_losses_in_float32_are_those_of_the_cpu(make_experiment, device):
    experiment = make_experiment(precision="float32")
    # The first loss differs by rounding alone. AdamW divides small gradients by themselves, so that rounding
    # grows from step to step.
    here, there = steps_on(experiment, CPU), steps_on(experiment, device)
    assert there[0] == pytest.approx(here[0], rel=1e-4)
    assert there == pytest.approx(here, rel=0.02)


def test_losses_in_bfloat16_are_near_those_in_float32(make_experiment, device):
    exact, rounded = (steps_on(make_experiment(precision=name), device) for name in ("float32", "bfloat16"))
    # bfloat16 has 8 bits: a relative rounding of 0.004 per operation, over some tens of layers.
    assert rounded == pytest.approx(exact, rel=0.1)


def test_compiled_steps_have_the_losses_of_eager_ones(make_experiment, device):
    torch._dynamo.reset()
    settings = {"precision": "float32"}
    eager, compiled = (
        steps_on(make_experiment(**settings, compile=setting), device) for setting in ("off", "on")
    )
    assert compiled[0] == pytest.approx(eager[0], rel=1e-4)
    assert compiled == pytest.approx(eager, rel=0.02)


GRAPH_SIZES = (4, 3, 4, 3, 4, 3, 4, 3, 4, 3)


def take_sizes(step, device):
    """Take steps of two sizes and return their losses."""
    random, results = torch.Generator().manual_seed(0), []
    for index, size in enumerate(GRAPH_SIZES):
        pixels = torch.rand(size, 4, 3, 64, 64, generator=random).to(device)
        labels = torch.randint(2, (size,), generator=random).to(device)
        # The last two steps launch graphs, if there are any.
        waits = "error" if index >= len(GRAPH_SIZES) - 2 else "default"
        torch.cuda.set_sync_debug_mode(waits)
        try:
            batch = VideoBatch(pixels, labels=labels)
            results.append(step(batch, rate=1e-3, num_videos=size, generator=random))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [sum(float(term) for term in result.terms.values()) for result in results]


@pytest.mark.parametrize("setting", ["auto", "on"])
def test_steps_with_cuda_graphs_are_those_of_eager_ones(make_experiment, device, setting, caplog):
    if device.type == "cpu":
        pytest.skip("a CPU has no CUDA graphs")
    eager = step_on(make_experiment(precision="float32", compile="off"), device)
    graphed = step_on(make_experiment(precision="float32", compile=setting), device, num_steps=REPAYING_STEPS)
    graphed.graphs.is_wanted = True
    expected, losses = take_sizes(eager, device), take_sizes(graphed, device)
    assert graphed.graphs.num_graphs == 2, caplog.text
    assert losses == pytest.approx(expected, rel=0.02)
    # The graphs overwrite their gradients. Nothing else may lie in their memory.
    kept = [each for state in graphed.optimizer.state.values() for each in state.values()]
    kept += list(graphed.method.parameters())
    before = [each.clone() for each in kept]
    batch = VideoBatch(
        random_videos(4, num_frames=4).pixels.to(device), labels=torch.zeros(4, device=device).long()
    )
    graphed.gradients_alone(batch)
    assert all(torch.equal(*pair) for pair in zip(before, kept, strict=True))


def test_first_steps_decide_on_cuda_graphs(make_experiment, device):
    if device.type == "cpu":
        pytest.skip("a CPU has no CUDA graphs")
    step = step_on(make_experiment(), device, num_steps=REPAYING_STEPS)
    take_sizes(step, device)
    # The kernels of the debug towers take less time than their launches.
    assert step.graphs.is_wanted


def test_frozen_networks_are_held_in_bfloat16(make_experiment, device):
    frozen = build_method(make_experiment(), CLASSES, device=device).frozen
    expected = torch.bfloat16 if device.type == "cuda" else torch.float32
    formats = {weight.dtype for weight in frozen.clip.model.visual.parameters()}
    formats |= {weight.dtype for weight in frozen.video_encoder.parameters()}
    assert formats == {expected}


@pytest.mark.parametrize("first_on_gpu", [True, False])
def test_run_resumes_on_another_device(make_experiment, tiny_videos, tmp_path, device, first_on_gpu):
    experiment = make_experiment(precision="float32", optim__epochs=2)

    def stop(metrics):
        raise KeyboardInterrupt

    devices = (device, CPU) if first_on_gpu else (CPU, device)
    with pytest.raises(KeyboardInterrupt):
        Run.start(experiment, tiny_videos, folder=tmp_path, device=devices[0]).fit(stop)
    last = Run.start(experiment, tiny_videos, folder=tmp_path, device=devices[1]).fit(lambda metrics: None)
    assert last["epoch"] == 2
    assert last["train_loss"] < 10


def test_validation_does_not_wait_for_each_batch(make_experiment, tiny_videos, tmp_path, device):
    if device.type == "cpu":
        pytest.skip("a CPU has nothing to wait for")
    run = Run.start(make_experiment(), tiny_videos, folder=tmp_path, device=device)
    run.validate()
    run.validate.watch.finish()
    reads = []
    usual = torch.Tensor.cpu
    torch.Tensor.cpu = lambda self, *args: reads.append(self.shape) or usual(self, *args)
    try:
        run.validate()
    finally:
        torch.Tensor.cpu = usual
    on_device = [shape for shape in reads if len(shape) == 2]
    assert len(on_device) == 1, "the logits of all batches are copied once"


def test_trial_waits_until_a_full_gpu_is_free(device, tmp_path, monkeypatch):
    if device.type == "cpu":
        pytest.skip("needs a GPU that can be filled")
    monkeypatch.setattr(gpu_turns, "_lock_file", lambda: tmp_path / "gpu.lock")
    monkeypatch.setattr(gpu_turns, "_POLL_SECONDS", 0.1)
    free, _ = torch.cuda.mem_get_info()
    ballast = [torch.empty(free - 2**30, dtype=torch.uint8, device=device)]
    attempts = []

    def train():
        attempts.append(1)
        if len(attempts) == 1:
            # The ballast stands for other trials, which end during the wait.
            threading.Timer(0.5, ballast.clear).start()
        torch.empty(4 * 2**30, dtype=torch.uint8, device=device)

    gpu_turns.train_in_turns(train, is_shared=True)
    assert len(attempts) == 2


def test_two_trials_share_a_gpu(study_on, device):
    rows = study_on(trials=2, trials_per_gpu=2)
    assert [row.state for row in rows] == ["complete", "complete"]
    assert all(device.type in row.conditions for row in rows)


def test_trial_that_runs_out_of_memory_is_no_failure(study_on, device, tmp_path):
    is_real, marker, name = device.type == "cuda", tmp_path / "full", "trial-0000"

    def setup():
        import torch

        from evclip_ray.tuning import gpu_turns, trainable

        usual = trainable.start_run

        def start_run(*args, folder, **options):
            if folder.name == name and not marker.exists():
                marker.touch()
                if is_real:
                    torch.empty(2**46, dtype=torch.uint8, device="cuda")
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return usual(*args, folder=folder, **options)

        trainable.start_run = start_run
        if not is_real:
            gpu_turns.reserved_bytes = gpu_turns.total_bytes = gpu_turns.free_bytes = lambda: 100

    rows = study_on(setup, trials=2, trials_per_gpu=2, max_failures=0)
    assert marker.exists()
    assert [row.state for row in rows] == ["complete", "complete"]


def test_ray_train_group_of_one_worker_trains(make_experiment, tiny_videos, tmp_path, ray_with_gpu, device):
    from evclip_ray.training.ray_trainer import train_distributed
    from evclip_ray.training.resources import GIB, ResourceRequest

    ray_with_gpu()
    tiny_videos.save(tmp_path / "videos.json")
    train_distributed(
        make_experiment(optim__epochs=2),
        tmp_path / "videos.json",
        folder=tmp_path / "run",
        zero_shot=tmp_path / "zero_shot.json",
        request=ResourceRequest(1, float(device.type == "cuda"), GIB / 2),
        hparams={},
        max_failures=0,
    )
    last = read_history(tmp_path / "run" / "history.jsonl")[-1]
    assert last["epoch"] == 2
    assert device.type in last["conditions"]


@pytest.fixture
def ray_with_gpu(without_ray, device, monkeypatch):
    """Return a function that starts a Ray with the GPU, or with a made-up one for a CPU."""
    import ray

    if device.type == "cpu":
        # Ray refuses made-up GPUs where none is visible.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def start(setup=None):
        ray.shutdown()
        hook = {"worker_process_setup_hook": setup} if setup else {}
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env=hook,
        )

    yield start
    ray.shutdown()


@pytest.fixture
def study_on(tiny_manifest, tiny_cache, debug_settings, tmp_path, ray_with_gpu):
    """Return a function that runs a study on a Ray with the GPU and returns its leaderboard."""
    import ray

    from evclip_ray.tuning.search_space import SearchSpace
    from evclip_ray.tuning.tuner import StudyRun

    def run(setup=None, **study):
        ray_with_gpu(setup)
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings},
            "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
            "study": {"memory_gb": 0.5, "scheduler": "none", **study},
        }
        run = StudyRun(SearchSpace.load("tiny", data), tmp_path / "study", cache=tiny_cache)
        plan = run.plan([node["Resources"] for node in ray.nodes()])
        run.claim()
        run.prepare()
        return run.run(plan, lambda event, record: None).rows

    return run


def test_features_on_a_gpu_are_near_those_of_the_cpu(device):
    networks, pixels = load_networks(), random_videos(2).pixels
    with torch.no_grad():
        here = networks.clip.encode_frames(networks.clip.prepare(pixels))
        clip = networks.clip.to(device)
        there = clip.encode_frames(clip.prepare(pixels.to(device))).cpu()
    networks.clip.to("cpu")
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_of_jobs_at_once_are_those_of_one_job(tiny_videos, tmp_path, device, precision):
    spec = dataclasses.replace(
        frame_features(
            "debug", "random", precision=precision, normalization="own", augment=AugmentConfig(brightness=0.2)
        ),
        device=device.type,
    )
    shards = tiny_videos.sets["train"].shards
    jobs = [job for store in ("one", "more") for job in view_jobs(tmp_path / store, spec, shards, 6)]
    alone, together = jobs[:6], jobs[6:]
    for job in alone:
        run_job(job, device)
    with ThreadPoolExecutor(JOBS_AT_ONCE) as pool:
        list(pool.map(lambda job: run_job(job, device), together))
    one, more = (FeatureSet(tmp_path / store, spec, shards, 6) for store in ("one", "more"))
    for view in range(6):
        expected, got = (each.read(range(len(shards)), view) for each in (one, more))
        assert got.dtype == getattr(torch, precision)
        # The first batch of a process is smaller than the others, and kernels round by the size of a batch.
        tolerance = 1e-4 if precision == "float32" else 0.02
        torch.testing.assert_close(got.float(), expected.float(), atol=tolerance, rtol=tolerance)


def test_first_batch_of_features_measures_the_memory(device):
    if device.type == "cpu":
        pytest.skip("a CPU has batches of a fixed size")
    size = BatchSize(device, num_frames=8)

    def encode(frames, start):
        # 1 GiB per video.
        return torch.ones(len(frames), 2**28, device=device)[:, :1]

    in_batches(lambda start, stop: torch.zeros(stop - start, dtype=torch.uint8), encode, 4, size)
    total = torch.cuda.mem_get_info(device)[1]
    assert 1 <= size.videos <= 0.9 * total / 2**30


def test_failed_batch_of_features_frees_its_memory(device):
    if device.type == "cpu":
        pytest.skip("needs a GPU that can be filled")
    size, (free, _) = BatchSize(device, num_frames=8), torch.cuda.mem_get_info(device)
    sizes = []

    def encode(frames, start):
        sizes.append(len(frames))
        # 4 videos need more than the GPU has, 2 need most of it.
        parts = [torch.empty(int(0.4 * free), dtype=torch.uint8, device=device) for _ in frames]
        return torch.zeros(len(parts), 1, device=device)

    values = in_batches(lambda start, stop: torch.zeros(stop - start, dtype=torch.uint8), encode, 4, size)
    assert sizes == [4, 2, 2]
    assert len(values) == 4
