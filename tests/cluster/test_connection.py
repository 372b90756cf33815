import contextlib
import socket
import threading
from types import SimpleNamespace

import pytest
import ray

from evclip_ray.cluster import connect, connection
from evclip_ray.cluster.address import check_answers, wait_for_answer
from evclip_ray.config import ConfigError


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def machines(without_ray, tmp_path_factory):
    """Connect to a new local Ray while the environment names an autoscaling cluster. Returns its machines.

    A start of Ray takes seconds.
    """
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text(
        "{max_workers: 2, head_node_type: head, provider: {type: aws}, available_node_types: "
        "{head: {resources: {CPU: 0}}, gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 2}}}"
    )
    assert not ray.is_initialized()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVCLIP_RAY_CLUSTER", str(path))
        with connect(num_cpus=3) as machines:
            yield machines
    assert not ray.is_initialized(), "the block must end its Ray"


def test_connect_yields_machines_and_stops_local_ray(machines):
    assert [machine["CPU"] for machine in machines] == [3.0], "a local Ray starts no other machines"
    with connect() as again:
        assert again == machines
    assert ray.is_initialized(), "an inner block must not end the outer one's Ray"


@contextlib.contextmanager
def deaf_server():
    """Start a server that accepts connections but never answers."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, connections), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection_ in connections:
        connection_.close()


def _accept(server, connections):
    with contextlib.suppress(OSError):
        while True:
            connections.append(server.accept()[0])


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_dead_address_is_one_line_with_advice(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"--address {address}: no Ray answers there .*; ") as caught:
        check_answers(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_silent_server_times_out(scheme, monkeypatch):
    monkeypatch.setattr("evclip_ray.cluster.address.SECONDS", 0.5)
    with deaf_server() as port, pytest.raises(ConfigError, match="no Ray answers there"):
        check_answers(f"{scheme}127.0.0.1:{port}")


def test_auto_ignores_a_private_ray(machines, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigError, match="--address auto: no Ray answers there; start"):
        check_answers("auto")


def test_auto_uses_the_address_written_by_ray_start(monkeypatch, tmp_path):
    port = free_port()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=f":{port}: Failed to connect"):
        check_answers("auto")


def test_malformed_address_is_refused():
    with pytest.raises(ConfigError, match="write auto, HOST:6379 or ray://HOST:10001"):
        check_answers("nonsense")


def test_autoscaling_cluster_counts_possible_machines(machines):
    with connect("auto") as there:
        assert [machine.get("GPU", 0) for machine in there] == [0, 1, 1]


def test_wait_for_answer_raises_the_reason():
    with pytest.raises(ConfigError, match="no Ray answers there"):
        wait_for_answer(f"127.0.0.1:{free_port()}", seconds=0.5)


@pytest.mark.parametrize(
    ("port", "message"), [("", "the cluster has no dashboard"), ("1", "http://h:1: no Ray answers")]
)
def test_client_address_without_dashboard_is_one_line(port, message, monkeypatch):
    context = SimpleNamespace(dashboard_url=f"0.0.0.0:{port}" if port else None)
    monkeypatch.setattr(connection, "joined", lambda address: contextlib.nullcontext(context))
    with pytest.raises(
        ConfigError, match=f"--address ray://h:10001: commands run there as jobs, .*{message}"
    ):
        connection.dashboard_of("ray://h:10001")


@pytest.fixture
def slow_ray(monkeypatch):
    """Return a function that lets the next starts of Ray fail, and the list of what happened."""
    failures, happened = [], []

    def init(**options):
        happened.append("start")
        if failures:
            raise failures.pop()

    fake = SimpleNamespace(
        init=init,
        shutdown=lambda: happened.append("shutdown"),
        is_initialized=lambda: False,
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}],
    )
    monkeypatch.setattr(connection, "ray", fake)
    watch = SimpleNamespace(report=lambda: None, end=lambda: None, end_leftovers=lambda seconds=3: None)
    monkeypatch.setattr(connection, "RayWatch", lambda: contextlib.nullcontext(watch))
    monkeypatch.setattr(connection, "end_ray_processes", lambda: happened.append("leftovers ended"))
    return failures.extend, happened


# As `ray._private.node` raises it.
SLOW = Exception(
    "The current node timed out during startup. This could happen because some of the raylet ..."
)


def test_slow_start_of_ray_is_repeated_once(slow_ray, caplog):
    fail, happened = slow_ray
    fail([SLOW])
    with connect() as machines:
        assert machines == [{"CPU": 1.0}]
    assert happened == ["start", "leftovers ended", "start", "shutdown"]
    assert caplog.messages == [
        "Ray's processes did not start in time on this busy machine. Starting them once more."
    ]


def test_second_slow_start_is_one_line(slow_ray):
    fail, happened = slow_ray
    fail([SLOW, SLOW])
    with pytest.raises(
        ConfigError, match=r"did not start in time, twice\. .* Give the same command"
    ) as caught:
        connect().__enter__()
    assert "\n" not in str(caught.value)
    assert happened == ["start", "leftovers ended"] * 2


def test_other_error_at_the_start_of_ray_is_not_repeated(slow_ray):
    fail, happened = slow_ray
    fail([ValueError("no such option")])
    with pytest.raises(ValueError, match="no such option"):
        connect().__enter__()
    assert happened == ["start", "leftovers ended"]


def test_interrupted_start_of_ray_leaves_no_process(slow_ray):
    fail, happened = slow_ray
    fail([KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        connect().__enter__()
    assert happened == ["start", "leftovers ended"]
