"""Against a real cluster of three nodes, by the command that people type."""

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import command_line, shell_environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SECRET = "a-value-that-nobody-may-read-5b1c"


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory):
    """A space of a person's own, beside what must not travel."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "mine.yaml").write_text(
        (Path(__file__).parents[3] / "search_spaces/quickstart.yaml").read_text()
    )
    (folder / ".env").write_text("KEY=1")
    (folder / "server.pem").write_text("key")
    (folder / "video.mp4").write_bytes(b"0" * 1000)
    return folder


def study(out, cache, *more):
    return ["tune", "mine.yaml", "--trials", 1, "--out", out, "--cache", cache, *more]


def wait_for_state(cluster, job, states):
    while True:
        status, printed = cluster.evclip_ray("submit", "--address", cluster.dashboard, "status", job)
        assert status == 0, printed
        if any(state in printed for state in states):
            return printed
        time.sleep(1)


@pytest.fixture(scope="module")
def finished(local_cluster, working_dir, tmp_path_factory):
    """A study as a job, whose first client is killed as soon as the job has printed something."""
    shared = tmp_path_factory.mktemp("shared")
    arguments = study(shared / "study", shared / "cache", "--set", "optim.epochs=2")
    client = subprocess.Popen(
        command_line(
            "submit", "--address", local_cluster.dashboard, "--env", f"PRIVATE={SECRET}", "--", *arguments
        ),
        cwd=working_dir, env=local_cluster.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed = ""
    for line in client.stdout:
        printed += line
        if line.startswith("study "):
            break
    client.send_signal(signal.SIGKILL)
    client.wait()
    job = re.search(r"raysubmit_\w+", printed)[0]
    wait_for_state(local_cluster, job, ["SUCCEEDED", "FAILED", "STOPPED"])
    return job, printed, shared


def test_logs_stream_while_the_job_runs(finished):
    _, printed, _ = finished
    assert "it goes on without this shell" in printed
    assert re.search(r"^study mine in ", printed, re.M)


def test_a_client_that_is_killed_loses_nothing(local_cluster, finished):
    job, _, shared = finished
    at = ("submit", "--address", local_cluster.dashboard)
    status, log = local_cluster.evclip_ray(*at, "logs", job)
    assert status == 0, log
    assert "leaderboard" in log
    assert f"{job}  SUCCEEDED" in log
    assert (shared / "study" / "leaderboard.csv").is_file()


def test_a_clients_address_sends_a_job_too(local_cluster, working_dir, tmp_path):
    client = f"ray://127.0.0.1:{local_cluster.client_port}"
    arguments = study(tmp_path / "study", tmp_path / "cache", "--set", "optim.epochs=2", "--address", client)
    status, printed = local_cluster.evclip_ray(*arguments, cwd=working_dir)
    assert status == 0, printed
    assert re.search(rf"^job raysubmit_\w+ at {local_cluster.dashboard}; it goes on", printed, re.M)
    assert (tmp_path / "study" / "leaderboard.csv").is_file()


def test_what_may_not_travel_stays_and_is_told(finished):
    _, printed, _ = finished
    assert "sending 1 files" in printed
    for name in (".env", "server.pem", "video.mp4"):
        assert name in printed


def test_results_are_copied_where_the_folder_is_mounted(local_cluster, finished, tmp_path):
    job, _, shared = finished
    status, printed = local_cluster.evclip_ray(
        "submit", "--address", local_cluster.dashboard, "fetch", job, tmp_path / "mine"
    )
    assert status == 0, printed
    assert (tmp_path / "mine" / "best.yaml").read_bytes() == (shared / "study" / "best.yaml").read_bytes()
    assert "copied" in printed


def test_results_come_through_the_head_where_it_is_not(local_cluster, finished, tmp_path):
    _, _, shared = finished
    code = (
        "import sys; from pathlib import Path; from evclip_ray.cluster import fetch; "
        "source, out, address = sys.argv[1:]; is_dir = Path.is_dir; "
        "Path.is_dir = lambda path: str(path) != source and is_dir(path); "
        "print(fetch.fetch(Path(source), Path(out), through=address))"
    )
    client = f"ray://127.0.0.1:{local_cluster.client_port}"
    done = subprocess.run(
        [*command_line()[:2], code, shared / "study", tmp_path / "mine", client],
        env=local_cluster.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"fetched through {client}" in done.stdout, done.stderr
    there = sorted(path.relative_to(shared / "study") for path in (shared / "study").rglob("*"))
    assert sorted(path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*")) == there


def test_no_value_of_a_variable_and_no_token_is_in_a_log(local_cluster, finished):
    _, printed, _ = finished
    assert SECRET not in printed
    logs = [path for path in local_cluster.folder.rglob("*") if path.is_file() and path.name != "token"]
    assert any("runtime_env_agent" in path.name for path in logs)
    for path in logs:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert local_cluster.token.encode() not in content, path


def test_stop_ends_the_job_and_frees_what_it_held(local_cluster, working_dir, tmp_path):
    at = ("submit", "--address", local_cluster.dashboard)
    arguments = study(tmp_path / "study", tmp_path / "cache", "--set", "optim.epochs=2000")
    status, printed = local_cluster.evclip_ray(*at, "--no-follow", "--", *arguments, cwd=working_dir)
    assert status == 0, printed
    job = re.search(r"raysubmit_\w+", printed)[0]
    while "actor: a trial (study trial-0000)" not in status_of(local_cluster):
        time.sleep(1)
    status, printed = local_cluster.evclip_ray(*at, "stop", job)
    assert status == 0
    assert "STOPPED" in printed
    while "actor: a trial" in status_of(local_cluster):
        time.sleep(1)


def status_of(cluster):
    status, printed = cluster.evclip_ray("cluster", "status", "--address", cluster.address)
    assert status == 0, printed
    return printed


def test_the_nodes_are_shown_with_what_they_have(local_cluster):
    printed = status_of(local_cluster)
    assert printed.count("(head)") == 1
    assert len(re.findall(r"/ 1 +\d\S* / 1 ", printed)) == 2


@pytest.mark.parametrize("kind", ["address", "client", "dashboard"])
@pytest.mark.parametrize("token", [None, "another"])
def test_a_client_without_the_token_is_refused(local_cluster, kind, token):
    address = {
        "address": local_cluster.address,
        "client": f"ray://127.0.0.1:{local_cluster.client_port}",
        "dashboard": local_cluster.dashboard,
    }[kind]
    without = (
        {"RAY_AUTH_MODE": "disabled"}
        if token is None
        else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    )
    verb = (
        ("submit", "--address", address, "status")
        if kind == "dashboard"
        else ("cluster", "status", "--address", address)
    )
    status, printed = local_cluster.evclip_ray(*verb, env=shell_environment(**without))
    assert status == 1
    assert "the cluster refuses this token, or wants one" in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_job_that_is_not_there_is_one_line(local_cluster):
    status, printed = local_cluster.evclip_ray(
        "submit", "--address", local_cluster.dashboard, "stop", "raysubmit_x"
    )
    assert status == 1
    assert "job raysubmit_x: there is none" in printed


def test_the_dashboard_and_the_token_are_nobody_elses(local_cluster):
    listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=False).stdout
    if not listening:
        pytest.skip("needs the command ss")
    ours = [line.split()[3] for line in listening.splitlines()]
    assert [a for a in ours if a.endswith(f":{local_cluster.dashboard_port}")] == [
        f"127.0.0.1:{local_cluster.dashboard_port}"
    ]
    assert not any(
        a.startswith(("0.0.0.0", "*")) for a in ours if a.endswith(f":{local_cluster.client_port}")
    )
    assert (local_cluster.folder / "token").stat().st_mode & 0o077 == 0
