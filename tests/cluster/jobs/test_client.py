"""Jobs on a real cluster of three nodes, through the command line."""

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
    """Return a folder with a search space and files that must not be sent."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "mine.yaml").write_text((Path(__file__).parents[3] / "search_spaces/debug.yaml").read_text())
    (folder / ".env").write_text("KEY=1")
    (folder / "server.pem").write_text("key")
    (folder / "video.mp4").write_bytes(b"0" * 1000)
    return folder


def study(out, cache, *more):
    world = ["--set", "data.world.classes=4"]
    return ["tune", "mine.yaml", *world, "--trials", 1, "--out", out, "--cache", cache, *more]


def wait_for_state(cluster, job, states):
    while True:
        status, printed = cluster.evclip_ray("submit", "--address", cluster.dashboard, "status", job)
        assert status == 0, printed
        if any(state in printed for state in states):
            return printed
        time.sleep(1)


@pytest.fixture(scope="module")
def finished(local_cluster, working_dir, tmp_path_factory):
    """Run a study as a job. Kill the client after its first lines and wait until the job ends."""
    shared = tmp_path_factory.mktemp("shared")
    arguments = study(shared / "study", shared / "cache", "--set", "optim.epochs=2")
    client = subprocess.Popen(
        command_line(
            "submit", "--address", local_cluster.dashboard, "--env", f"PRIVATE={SECRET}", "--", *arguments
        ),
        cwd=working_dir,
        env=local_cluster.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
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
    assert "it continues without this shell" in printed
    assert re.search(r"^study mine in ", printed, re.M)


def test_job_continues_after_its_client_is_killed(local_cluster, finished):
    job, _, shared = finished
    at = ("submit", "--address", local_cluster.dashboard)
    status, log = local_cluster.evclip_ray(*at, "logs", job)
    assert status == 0, log
    assert "leaderboard" in log
    assert f"{job}  SUCCEEDED" in log
    assert (shared / "study" / "leaderboard.csv").is_file()


def test_ray_client_address_submits_a_job(local_cluster, working_dir, tmp_path):
    client = f"ray://127.0.0.1:{local_cluster.client_port}"
    arguments = study(tmp_path / "study", tmp_path / "cache", "--set", "optim.epochs=2", "--address", client)
    status, printed = local_cluster.evclip_ray(*arguments, cwd=working_dir)
    assert status == 0, printed
    assert re.search(rf"^job raysubmit_\w+ at {local_cluster.dashboard}; it continues", printed, re.M)
    assert (tmp_path / "study" / "leaderboard.csv").is_file()


def test_excluded_files_are_listed(finished):
    _, printed, _ = finished
    assert "sending 1 file," in printed
    for name in (".env", "server.pem", "video.mp4"):
        assert name in printed


def test_fetch_copies_a_mounted_folder(local_cluster, finished, tmp_path):
    job, _, shared = finished
    status, printed = local_cluster.evclip_ray(
        "submit", "--address", local_cluster.dashboard, "fetch", job, tmp_path / "mine"
    )
    assert status == 0, printed
    assert (tmp_path / "mine" / "best.yaml").read_bytes() == (shared / "study" / "best.yaml").read_bytes()
    assert "copied" in printed


def test_fetch_reads_an_unmounted_folder_through_head(local_cluster, finished, tmp_path):
    _, _, shared = finished
    code = (
        "import sys; from pathlib import Path; from evclip_ray.cluster.jobs import fetch; "
        "source, out, address = sys.argv[1:]; is_dir = Path.is_dir; "
        "Path.is_dir = lambda path: str(path) != source and is_dir(path); "
        "print(fetch.fetch(Path(source), Path(out), through=address))"
    )
    client = f"ray://127.0.0.1:{local_cluster.client_port}"
    done = subprocess.run(
        [*command_line()[:2], code, shared / "study", tmp_path / "mine", client],
        env=local_cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"fetched through {client}" in done.stdout, done.stderr
    there = sorted(path.relative_to(shared / "study") for path in (shared / "study").rglob("*"))
    assert sorted(path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*")) == there


def test_logs_contain_no_variable_value_and_no_token(local_cluster, finished):
    _, printed, _ = finished
    assert SECRET not in printed
    logs = [path for path in local_cluster.folder.rglob("*") if path.is_file() and path.name != "token"]
    assert any("runtime_env_agent" in path.name for path in logs)
    for path in logs:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert local_cluster.token.encode() not in content, path


def test_stop_ends_the_job_and_frees_its_resources(local_cluster, working_dir, tmp_path):
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


def test_status_shows_the_resources_of_each_node(local_cluster):
    printed = status_of(local_cluster)
    assert printed.count("(head)") == 1
    assert len(re.findall(r"/ 1 +\d\S* / 1 ", printed)) == 2


@pytest.mark.parametrize("kind", ["address", "client", "dashboard"])
@pytest.mark.parametrize("token", [None, "another"])
def test_client_without_the_token_is_refused(local_cluster, kind, token):
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
    assert "the cluster rejects this token or requires one" in printed
    assert len(printed.strip().splitlines()) == 1


def test_unknown_job_is_one_line(local_cluster):
    status, printed = local_cluster.evclip_ray(
        "submit", "--address", local_cluster.dashboard, "stop", "raysubmit_x"
    )
    assert status == 1
    assert "job raysubmit_x: there is none" in printed


def test_dashboard_and_token_are_private(local_cluster):
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
