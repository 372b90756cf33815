import gc
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from gpu_markers import sees_gpus

# Ray reads these at its first import: no usage report, and no token in the home folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Without this, Ray replaces Python's print for the rest of the test process.
os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
# Tiny networks run faster on one thread than on several, above all with several test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Importing all tests and their libraries makes millions of objects that stay. Searching them for garbage
# again and again would take 7 of the 16 CPU seconds of the collection, in each test process.
gc.disable()


def pytest_collection_finish():
    """Turn the garbage collector on for the tests. It skips the objects that exist by now."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    """Let the interpreter end as usual: frozen objects would count as leaks of libraries."""
    gc.unfreeze()


def pytest_configure(config):
    """Hide GPUs from the tests that compare with results of the CPU."""
    if not sees_gpus(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_report_header(config):
    """Say why the tests of GPUs are skipped if they are selected with others."""
    if "gpu" in config.option.markexpr and not sees_gpus(config.option.markexpr):
        return "GPUs are hidden: only `-m gpu`, `-m cluster` and `-m 'gpu or cluster'` see them"
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference fixtures next to the repository, or skip the test without it."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` next to the repository (reference fixtures)")
    return folder.resolve()


def _start_ray(attempts=3):
    import ray

    options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200_000_000}
    try:
        ray.init(address="local", log_to_driver=False, logging_level="WARNING", **options)
    # Ray gives its processes 30 s to start, which a busy machine exceeds. It has no exception of its own.
    except Exception as error:
        ray.shutdown()
        if attempts == 1 or "timed out during startup" not in str(error):
            raise
        return _start_ray(attempts - 1)
    return ray


@pytest.fixture(scope="session")
def local_ray():
    """Start one local Ray with two CPUs per test process: a start takes five seconds on two cores."""
    ray = _start_ray()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def restart_ray(local_ray):
    """Return a function that restarts Ray. Its new workers inherit the environment of that moment."""

    def restart():
        local_ray.shutdown()
        _start_ray()

    return restart


@pytest.fixture(scope="module")
def without_ray():
    """Stop the Ray of this test process, if it runs, and start it again after the module's tests."""
    import ray

    was_running = ray.is_initialized()
    ray.shutdown()
    yield
    ray.shutdown()
    if was_running:
        _start_ray()


DEBUG = {
    "view.num_frames": 4,
    "view.height": 72,
    "view.width": 72,
    "backbone.name": "debug",
    "backbone.pretrained": "random",
    "method.name": "ev_clip",
    "method.mask.depth": 1,
    "method.context.scale_init": 1.0,
    "method.video_encoder.name": "swin3d_debug",
    "method.video_encoder.weights": "random",
    "optim.epochs": 3,
    "optim.batch_size": 8,
    "optim.lr": 0.01,
}


@pytest.fixture(scope="session")
def debug_settings():
    """Return the overrides of the smallest experiment."""
    return DEBUG


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory):
    """Write 30 small videos of six actions and return their manifest, which has a split column."""
    from synthetic_videos import write_synthetic

    return write_synthetic(tmp_path_factory.mktemp("tiny"), videos_per_class=5, size=64, num_frames=12)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory):
    """Return a cache folder that the whole test process shares."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_experiment(tiny_manifest):
    """Return a function that makes experiments on the tiny videos and the debug towers."""
    from evclip_ray.training.experiment import ExperimentConfig

    def make(**overrides):
        dotted = {path.replace("__", "."): value for path, value in overrides.items()}
        return ExperimentConfig.load({"data": {"manifest": str(tiny_manifest)}}, {**DEBUG, **dotted})

    return make


@pytest.fixture(scope="session")
def tiny_videos(make_experiment, tiny_cache, local_ray):
    """Return the tiny training and validation videos, decoded once per test process."""
    from evclip_ray.training.datamodule import prepare
    from evclip_ray.training.video_plan import plan_videos

    plan = plan_videos(make_experiment(), cache=tiny_cache)
    return prepare(plan, cache=tiny_cache)


@pytest.fixture(scope="session", autouse=True)
def ray_decoding():
    """Decode videos in the test process: Ray Data takes seconds to start for each set of videos.

    Yields the function that decodes on Ray, for `decode_on_ray`.
    """
    from evclip_ray.data.shards import prepare

    on_ray = prepare._run_all

    def run_all(jobs, root, folder, seconds_per_video, nodes):
        writing = prepare.Writing(None, root, folder, seconds_per_video, run="tests")
        for job in jobs:
            writing.write(job)
            yield len(job.videos)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_run_all", run_all)
        yield on_ray


@pytest.fixture(scope="module")
def decode_on_ray(ray_decoding):
    """Decode videos on Ray as a user does, for tests of the decoding itself and of the commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evclip_ray.data.shards.prepare._run_all", ray_decoding)
        yield


@pytest.fixture
def tensorboard(tmp_path):
    """Start TensorBoard on `tmp_path`. Returns a function that sends a request to its HParams plugin."""
    arguments = ["--logdir", str(tmp_path), "--port", "0", "--load_fast", "false", "--reload_interval", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        address = next((match for line in process.stderr if (match := re.search(r"http://\S+/", line))), None)
        assert address is not None, "TensorBoard printed no address"

        def post(route, **body):
            request = urllib.request.Request(
                f"{address.group()}data/plugin/hparams/{route}",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)

        yield post
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium, or skip the test without one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs a Chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()
