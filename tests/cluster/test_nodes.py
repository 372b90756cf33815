"""Check of nodes, with unusable nodes that are added to a real cluster and removed again."""

import contextlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest
from ray.exceptions import GetTimeoutError, TaskUnschedulableError

from evclip_ray.cluster import nodes
from evclip_ray.cluster.nodes import NodeFacts, node_facts, node_problems
from tests.cluster.conftest import end

GOOD = {"name": "a", "unseen": (), "read_only": (), "free": {}}


@contextlib.contextmanager
def node(cluster, *command, ray="ray"):
    """Add a node for the duration of a block, started by `COMMAND ray start ...`."""
    with tempfile.TemporaryDirectory(prefix="nd.", dir="/tmp", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        start = (
            f"exec {ray} start --block --address={cluster.address} --num-cpus=0 --temp-dir={folder}/r "
            "--object-store-memory=100000000 --min-worker-port=0 --max-worker-port=0 "
            "--dashboard-agent-listen-port=0"
        )
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, "bash", "-c", start],
                env=cluster.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
            yield
        finally:
            end(process)
            # The head notices the loss with a delay.
            while nodes_up(cluster) > 3:
                time.sleep(1)


def nodes_up(cluster):
    status, printed = cluster.evclip_ray("cluster", "status", "--address", cluster.address)
    assert status == 0, printed
    return len(re.findall(r"^\S+ \w{6} .* / ", printed, re.M))


def check(cluster, storage, *, cwd=None):
    return cluster.evclip_ray(
        "cluster",
        "check",
        "--address",
        cluster.address,
        "--storage",
        storage,
        "--min-free-gb",
        0,
        cwd=cwd,
    )


@pytest.fixture
def storage():
    with tempfile.TemporaryDirectory(prefix="st.", dir="/tmp") as folder:
        yield Path(folder) / "shared"


def may_mount():
    try:
        return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_usable_cluster_passes(local_cluster, storage):
    status, printed = check(local_cluster, storage)
    assert (status, printed) == (0, f"{local_cluster.address}: no problems found\n")
    assert list(storage.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_missing_gpus_of_a_space_are_reported(local_cluster, storage, tmp_path):
    space = tmp_path / "big.yaml"
    space.write_text("search:\n  optim.lr: {uniform: [0.1, 0.2]}\nstudy:\n  gpus: 4\n")
    status, printed = local_cluster.evclip_ray(
        "cluster", "check", "--address", local_cluster.address, "--storage", storage, "--space", space
    )
    assert status == 1
    assert "4 GPU" in printed
    assert "but the cluster has" in printed


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace (root)")
def test_storage_of_the_head_only_stops_before_trials(local_cluster, storage, tmp_path):
    storage.mkdir()
    hide = f'mount -t tmpfs none {storage} && exec "$@"'
    with node(local_cluster, "unshare", "-m", "bash", "-c", hide, "-"):
        status, printed = check(local_cluster, storage)
        assert status == 1
        assert f"{storage} is not the folder that this process sees" in printed
        status, printed = local_cluster.evclip_ray(
            "tune",
            "quickstart",
            "--out",
            storage / "study",
            "--cache",
            tmp_path / "cache",
            "--address",
            local_cluster.address,
        )
        assert status == 1
        assert "is not the folder that this process sees" in printed
        assert not (storage / "study" / "trials").exists()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_node_without_the_package_is_reported(local_cluster, storage, tmp_path):
    with node(local_cluster, ray=python_without_the_package(tmp_path)):
        # Ray adds the driver's folder to the workers' path. From tmp_path they cannot import the checkout.
        status, printed = check(local_cluster, storage, cwd=tmp_path)
    assert status == 1
    assert "evclip-ray is not installed; install the same version on every node" in printed


def python_without_the_package(folder):
    """Return the command `ray` of a linked environment without evclip-ray."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    there = next((folder / "venv" / "lib").glob("python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "evclip" not in entry.name.lower():
            (there / entry.name).symlink_to(entry)
    script = folder / "ray"
    script.write_text("from ray.scripts.scripts import main; main()")
    return f"{folder}/venv/bin/python {script}"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"ray": "1.0", "python": "3.0.0", "package": None}, "Ray is 1.0, here"),
        ({"ray": "1.0", "python": "3.0.0", "package": None}, "Python is 3.0.0, here"),
        ({"ray": "1.0", "python": "3.0.0", "package": None}, "evclip-ray is not installed"),
        ({"ray": "1.0", "python": "3.0.0", "package": "9.9"}, "evclip-ray is 9.9, here"),
    ],
)
def test_other_version_is_reported_with_both(facts, message):
    problems = node_problems(NodeFacts(**{**GOOD, **facts}))
    assert any(message in problem for problem in problems)


@pytest.mark.cluster
def test_cluster_of_other_version_is_reported_with_both(local_cluster):
    """Change the version that Ray's head records about itself, and restore it afterwards."""
    code = """
import json, sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY as KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER as SPACE
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
record = json.loads(client.internal_kv_get(KEY, namespace=SPACE))
print(record["ray_version"])
record["ray_version"] = sys.argv[2]
client.internal_kv_put(KEY, json.dumps(record).encode(), True, SPACE)
"""

    def become(version):
        return subprocess.run(
            [sys.executable, "-c", code, local_cluster.address, version],
            env=local_cluster.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    ours = become("2.1.0")
    try:
        status, printed = local_cluster.evclip_ray("cluster", "status", "--address", local_cluster.address)
    finally:
        become(ours)
    assert status == 1
    assert "Ray: 2.1.0" in printed
    assert f"Ray: {ours}" in printed
    assert "install the same versions here and on the cluster" in printed


@pytest.fixture
def with_another_node(local_ray, monkeypatch):
    """Return a function that lists a node unknown to the scheduler in the first `listings` lists of nodes."""

    def add(listings):
        (here,) = local_ray.nodes()
        another = here | {"NodeID": here["NodeID"][::-1], "NodeManagerHostname": "another"}
        lists = iter([[here, another]] * listings)
        monkeypatch.setattr(nodes.ray, "nodes", lambda: next(lists, [here]))
        monkeypatch.setattr(nodes, "_RETRY_SECONDS", 0.01)

    return add


@pytest.mark.parametrize("listings", [1, 3])
def test_node_that_left_is_not_checked(with_another_node, listings, tmp_path, caplog):
    with_another_node(listings)
    (facts,) = node_facts([tmp_path])
    assert not node_problems(facts)
    assert "node another has left the cluster" in caplog.text


def test_listed_node_that_never_answers_is_an_error(with_another_node, tmp_path, monkeypatch):
    with_another_node(1000)
    monkeypatch.setattr(nodes, "_SECONDS", 1)
    with pytest.raises((TaskUnschedulableError, GetTimeoutError)):
        node_facts([tmp_path])
