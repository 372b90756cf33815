"""The Slurm script with a stub `srun` that starts real processes, on two simulated nodes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster.conftest import free_port, shell_environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).resolve().parents[3] / "cluster" / "slurm.sh"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=* ]] && echo "${1#--nodelist=} $*" >>"$STUB_LOG"
    shift
done
exec "$@"
"""
SCONTROL = """#!/bin/bash
[[ "$1 $2" == "show hostnames" ]] && tr , '\\n' <<<"$3"
"""
HOSTNAME = "#!/bin/bash\necho 127.0.0.1\n"


@pytest.fixture
def run_script(tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="sl.", dir="/tmp", ignore_cleanup_errors=True) as short:
        environment = shell_environment(
            SLURM_JOB_ID="4711",
            SLURM_JOB_NODELIST="node1,node2",
            SLURM_CPUS_PER_TASK="1",
            VENV=sys.prefix,
            SHARED=str(tmp_path / "shared"),
            FOLDER=f"{short}/r",
            PORT=str(free_port()),
            DASHBOARD_PORT=str(free_port()),
            STUB_LOG=str(tmp_path / "srun.log"),
        )
        environment["PATH"] = f"{stubs}:{environment['PATH']}"

        def run(*arguments):
            return subprocess.run(
                ["bash", SCRIPT, *map(str, arguments)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )

        yield run


def test_script_runs_a_study_and_ends_its_nodes(run_script, tmp_path):
    out = tmp_path / "shared" / "study"
    settings = ("--set", "optim.epochs=1", "--set", "data.world.classes=4")
    done = run_script("debug", *settings, "--trials", 1, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "leaderboard.csv").is_file()
    assert done.stdout.count("(head)") == 1
    started = [line for line in (tmp_path / "srun.log").read_text().splitlines() if "ray start" in line]
    assert sorted(line.split()[0] for line in started) == ["node1", "node2"]
    assert not list((tmp_path / "shared" / ".evclip-ray").glob("token-*")), "the token must go with the job"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(tmp_path / "shared") not in process.read_text(), "a process outlived the job"
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_script_returns_the_exit_status_of_the_study(run_script, tmp_path):
    done = run_script("no_such_space", "--out", tmp_path / "shared" / "study")
    assert done.returncode == 1
    assert "no_such_space" in done.stdout + done.stderr
    assert os.listdir(tmp_path / "shared" / ".evclip-ray") == []  # noqa: PTH208
