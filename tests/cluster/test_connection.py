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


def test_connecting_gives_each_machines_resources_and_ends_what_it_started():
    assert not ray.is_initialized()
    with connect(num_cpus=3) as machines:
        assert [machine["CPU"] for machine in machines] == [3.0]
        with connect() as again:
            assert again == machines
        assert ray.is_initialized(), "an inner block must not end the outer one's Ray"
    assert not ray.is_initialized()


@contextlib.contextmanager
def deaf_server():
    """Accepts every connection, and says nothing."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, kept), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for one in kept:
        one.close()


def _accept(server, kept):
    with contextlib.suppress(OSError):
        while True:
            kept.append(server.accept()[0])


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_an_address_where_nothing_listens_is_one_line_with_the_cure(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"--address {address}: no Ray answers there .*; ") as caught:
        check_answers(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_server_that_says_nothing_is_not_waited_for(scheme, monkeypatch):
    monkeypatch.setattr("evclip_ray.cluster.address.SECONDS", 0.5)
    with deaf_server() as port, pytest.raises(ConfigError, match="no Ray answers there"):
        check_answers(f"{scheme}127.0.0.1:{port}")


def test_auto_takes_no_private_ray_that_happens_to_run_here(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect(num_cpus=1):
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        with pytest.raises(ConfigError, match="--address auto: no Ray answers there; start"):
            check_answers("auto")


def test_auto_takes_the_cluster_that_ray_start_wrote_down(monkeypatch, tmp_path):
    port = free_port()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match=f":{port}: Failed to connect"):
        check_answers("auto")


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="write auto, HOST:6379 or ray://HOST:10001"):
        check_answers("nonsense")


def test_an_autoscaling_cluster_has_the_machines_that_it_may_start(tmp_path, monkeypatch):
    (tmp_path / "cluster.yaml").write_text(
        "{max_workers: 2, head_node_type: head, provider: {type: aws}, available_node_types: "
        "{head: {resources: {CPU: 0}}, gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 2}}}"
    )
    monkeypatch.setenv("EVCLIP_RAY_CLUSTER", str(tmp_path / "cluster.yaml"))
    with connect(num_cpus=1) as here:
        assert [machine["CPU"] for machine in here] == [1.0], "a Ray of this machine's own starts no others"
        with connect("auto") as there:
            assert [machine.get("GPU", 0) for machine in there] == [0, 1, 1]


def test_waiting_for_an_address_ends_with_what_is_wrong_there():
    with pytest.raises(ConfigError, match="no Ray answers there"):
        wait_for_answer(f"127.0.0.1:{free_port()}", seconds=0.5)


@pytest.mark.parametrize(
    ("port", "told"), [("", "the cluster has no dashboard"), ("1", "http://h:1: no Ray answers")]
)
def test_a_client_address_whose_dashboard_takes_no_jobs_is_one_line(port, told, monkeypatch):
    context = SimpleNamespace(dashboard_url=f"0.0.0.0:{port}" if port else None)
    monkeypatch.setattr(connection, "joined", lambda address: contextlib.nullcontext(context))
    with pytest.raises(ConfigError, match=f"--address ray://h:10001: commands run there as jobs, .*{told}"):
        connection.dashboard_of("ray://h:10001")
