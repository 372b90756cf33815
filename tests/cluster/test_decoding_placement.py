"""Placement of decoding on a real cluster of five nodes, and trials that start before all of it is done.

The nodes: a head without CPUs, two with a CPU and a logical GPU each, and two with a CPU only.
"""

import contextlib
import os
import signal
import threading
from types import SimpleNamespace

import pytest
from killable import wait_until

from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards import planning
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.locking import building
from evclip_ray.training.datamodule import is_prepared
from evclip_ray.training.resources import ResourceRequest, decoding_nodes
from evclip_ray.training.video_plan import plan_videos
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning import stopper
from evclip_ray.tuning.optuna_storage import open_optuna
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import StudyRun
from tests.cluster.conftest import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SEARCH = {"view.num_frames": {"choice": [4, 6]}, "optim.lr": {"loguniform": [1e-3, 1e-2]}}
STORE = 100 * 2**20


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Return the ids of the GPU and CPU nodes. Each GPU node has its own folder for copies."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": STORE, "include_dashboard": True}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"dashboard_port": free_port()})
    copies = [tmp_path_factory.mktemp("copies") for _ in range(2)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            # Otherwise the state API may use the address of another cluster.
            patch.delenv("RAY_ADDRESS", raising=False)
            gpu = [
                cluster.add_node(
                    num_cpus=1,
                    num_gpus=1,
                    object_store_memory=STORE,
                    env_vars={"EVCLIP_RAY_LOCAL": str(folder)},
                )
                for folder in copies
            ]
            cpu = [cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE) for _ in range(2)]
            context = ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield {
                "gpu": [node.node_id for node in gpu],
                "cpu": [node.node_id for node in cpu],
                "dashboard": f"http://{context.address_info['webui_url']}",
                "copies": copies,
                "cluster": cluster,
            }
    finally:
        ray.shutdown()
        cluster.shutdown()


def tasks_of(nodes, name):
    """Return Ray's records of the tasks with a name."""
    from ray.util.state import list_tasks

    tasks = list_tasks(address=nodes["dashboard"], limit=10_000, detail=True, raise_on_missing_output=False)
    return [task for task in tasks if name in task.name and task.node_id and task.start_time_ms]


@pytest.fixture
def study(nodes, tiny_manifest, debug_settings, tmp_path):
    """Return a function that builds a study of two variants of the videos, first 4 and then 6 frames."""
    fixed = {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": 1}

    def make(name, *, search=SEARCH, trials=3, **call):
        options = {"memory_gb": 0.5, "trials": trials, "sampler": "random", "scheduler": "none"}
        data = {"fixed": fixed, "search": search, "study": {**options, "seed": seed}}
        return StudyRun(SearchSpace.load("placed", data), tmp_path / name, cache=tmp_path / "cache", **call)

    def frames_of(seed):
        folder = StudyFolder(tmp_path / f"seed-{seed}")
        folder.root.mkdir()
        settings = {"sampler": "random", "seed": seed}
        space = SearchSpace.load("placed", {"fixed": fixed, "search": SEARCH, "study": settings})
        stops = Stops(None, max_epochs=1)
        search = StudySearch(
            space, open_optuna(folder), folder, max_epochs=1, stops=stops, num_slots=lambda: 3
        )
        points = [search.suggest(f"t{number}") for number in range(3)]
        return [point["overrides"]["view.num_frames"] for point in points]

    seed = next(seed for seed in range(100) if frames_of(seed) == [4, 6, 6])
    return make


def run(study, on_event=lambda *event: None):
    import ray

    plan = study.plan([node["Resources"] for node in ray.nodes() if node["Alive"]])
    study.claim()
    study.prepare()
    return study.run(plan, on_event)


def plan_of(study, frames):
    experiment = study.space.experiment({"view.num_frames": frames})
    return plan_videos(experiment, cache=study.cache), videos_key(experiment)


def points(outcome):
    return {row.trial: row.overrides for row in outcome.rows}


def test_decoding_waits_for_busy_decoding_nodes(nodes, tiny_manifest, tmp_path, monkeypatch):
    # One task per shard.
    monkeypatch.setattr(planning, "TASK_FRAMES", 1)
    manifest = read_manifest(tiny_manifest)
    shards = prepare_shards(
        manifest,
        view=ViewConfig(num_frames=4, height=64, width=64),
        folder=tmp_path / "shards",
        rows_per_shard=1,
        nodes=nodes["cpu"],
    )
    assert len(shards) == len(manifest)
    # Ray's records of tasks arrive later than their results.
    wait_until(lambda: len(tasks_of(nodes, "FlatMap(_run)")) > 8)
    where = [task.node_id for task in tasks_of(nodes, "FlatMap(_run)")]
    assert set(where) == set(nodes["cpu"])


def test_trials_start_while_other_videos_are_decoded(nodes, study, tmp_path):
    tuned = study("study")
    other, key = plan_of(tuned, 6)
    begun_before = len(tasks_of(nodes, "FlatMap(_run)"))
    events = []
    with contextlib.ExitStack() as held:
        # Hold the lock as another study does that decodes these videos.
        held.enter_context(building([other.folder("train", tuned.cache)]))

        def on_event(kind, record):
            events.append((kind, record.trial, is_prepared(other, tuned.cache)))
            held.close()

        outcome = run(tuned, on_event)
    assert {row.state for row in outcome.rows} == {"complete"}
    assert [row["view.num_frames"] for _, row in sorted(points(outcome).items())] == [4, 6, 6]
    assert events[0] == ("epoch", "trial-0000", False)
    decoding = tasks_of(nodes, "FlatMap(_run)")
    assert len(decoding) >= begun_before + 4
    assert {task.node_id for task in decoding} <= set(nodes["cpu"])
    # Tune names the actor after its function and runs a trial up to each report in one call.
    trials = tasks_of(nodes, "run_trial.train")
    assert trials, {task.name for task in tasks_of(nodes, "")}
    assert {task.node_id for task in trials} <= set(nodes["gpu"])
    assert min(task.start_time_ms for task in trials) < max(task.end_time_ms for task in decoding)
    assert tuned.folder.videos(key).is_file()
    # A study that prepares everything first runs the same points.
    tuned = study("waiting")
    tuned.in_background = False
    assert points(run(tuned)) == points(outcome)


def test_failed_preparation_raises_and_can_be_resumed(nodes, study):
    tuned = study("failing")
    other, _ = plan_of(tuned, 6)
    in_the_way = other.folder("train", tuned.cache)
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder")
    with pytest.raises(FileExistsError, match=in_the_way.name):
        run(tuned)
    in_the_way.unlink()
    outcome = run(study("failing"))
    assert outcome.missing == 0
    assert [point["view.num_frames"] for _, point in sorted(points(outcome).items())] == [4, 6, 6]


def test_interrupt_ends_a_study_that_waits_for_videos(nodes, study):
    from ray.util.state import list_actors

    tuned = study("interrupted")
    other, _ = plan_of(tuned, 6)

    def on_event(kind, record):
        if kind == "ended":
            threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with building([other.folder("train", tuned.cache)]):
        outcome = run(tuned, on_event)
    assert outcome.interrupted
    assert outcome.missing == 2
    makers = [a for a in list_actors(address=nodes["dashboard"]) if a.class_name == "_Maker"]
    assert {maker.state for maker in makers} == {"DEAD"}
    outcome = run(study("interrupted"))
    assert [point["view.num_frames"] for _, point in sorted(points(outcome).items())] == [4, 6, 6]


def test_time_budget_ends_a_study_that_waits_for_videos(nodes, study, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopper, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tuned = study("in time", time_budget=3600.0)
    other, _ = plan_of(tuned, 6)

    def time_passes(kind, record):
        if kind == "ended":
            now[0] = float("inf")

    with building([other.folder("train", tuned.cache)]):
        outcome = run(tuned, time_passes)
    assert (outcome.out_of_time, outcome.interrupted, outcome.missing) == (True, False, 2)
    now[0] = 0.0
    outcome = run(study("in time"))
    assert [point["view.num_frames"] for _, point in sorted(points(outcome).items())] == [4, 6, 6]


def test_node_copies_each_shard_once_for_all_trials(nodes, study, tmp_path):
    fetched = {}

    def on_event(kind, record):
        for folder in nodes["copies"]:
            for copy in folder.glob("*.arrow"):
                fetched.setdefault(copy, set()).add(copy.stat().st_ino)

    before = {copy for folder in nodes["copies"] for copy in folder.glob("*.arrow")}
    tuned = study("copied", search={"optim.lr": SEARCH["optim.lr"]}, trials=6)
    outcome = run(tuned, on_event)
    assert len(outcome.rows) == 6
    shards = list((tuned.cache / "shards").glob("*/shard-*.arrow"))
    assert len(shards) == 2
    # On a busy machine one node may run all trials, and the other then copies nothing.
    new = [set(folder.glob("*.arrow")) - before for folder in nodes["copies"]]
    sizes = [sorted(copy.stat().st_size for copy in copies) for copies in new if copies]
    assert sizes
    assert all(of_node == sorted(shard.stat().st_size for shard in shards) for of_node in sizes)
    assert all(len(inodes) == 1 for inodes in fetched.values())


def test_decoding_nodes_are_the_nodes_without_gpu(nodes):
    import ray

    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    assert sorted(decoding_nodes(ResourceRequest(1, 1, 0), alive)) == sorted(nodes["cpu"])


def test_preparation_survives_loss_of_decoding_nodes(nodes, tiny_manifest, tmp_path):
    """Must be the last test of this file, because it removes the two nodes."""
    manifest, killed = read_manifest(tiny_manifest), []

    def kill(done, total):
        if not killed:
            killed.extend(nodes["cpu"])
            for node in nodes["cpu"]:
                nodes["cluster"].remove_node(node_of(nodes["cluster"], node), allow_graceful=False)

    shards = prepare_shards(
        manifest,
        view=ViewConfig(num_frames=4, height=64, width=64),
        folder=tmp_path / "shards",
        rows_per_shard=1,
        nodes=nodes["cpu"],
        progress=kill,
    )
    assert len(shards) == len(manifest)


def node_of(cluster, node_id):
    return next(node for node in cluster.list_all_nodes() if node.node_id == node_id)
