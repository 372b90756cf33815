"""Messages of Ray in a file, and errors of this package on the terminal."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, os, sys
from pathlib import Path
from evclip_ray.cli.ray_messages import ray_messages, separate_stderr
from evclip_ray.termination import write_error
separate_stderr()
logging.basicConfig(stream=sys.stderr)
folder = Path(sys.argv[1])
with ray_messages({verbose}) as messages:
    os.write(2, b"[E core_worker] before the folder exists\\n")
    if {moves}:
        folder.mkdir(exist_ok=True)
        messages.move_to(folder)
    {inside}
    print("printed", file=sys.stderr)
    logging.warning("logged")
    write_error("signalled\\n")
os.write(2, b"native again\\n")
"""
NATIVE = 'os.write(2, b"[E raylet] later\\n")'


def run(folder, *, inside=NATIVE, verbose=False, moves=True):
    code = PROGRAM.format(inside=inside, verbose=verbose, moves=moves)
    return subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True).stderr


def test_native_messages_are_kept_in_the_folder(tmp_path):
    folder = tmp_path / "study"
    printed = run(folder)
    assert printed.splitlines() == [
        "printed",
        "WARNING:root:logged",
        "signalled",
        f"messages of Ray: {folder / 'ray.log'}",
        "native again",
    ]
    log = "[E core_worker] before the folder exists\n[E raylet] later\n"
    assert (folder / "ray.log").read_text() == log
    # A resumed study keeps the messages of its earlier calls.
    run(folder)
    assert (folder / "ray.log").read_text() == 2 * log


def test_traceback_stays_on_the_terminal(tmp_path):
    printed = run(tmp_path, inside='raise RuntimeError("a bug")')
    assert "RuntimeError: a bug" in printed
    assert "Traceback" in printed


def test_messages_without_a_folder_are_named(tmp_path):
    printed = run(tmp_path / "none", moves=False)
    path = next(line for line in printed.splitlines() if line.startswith("messages of Ray: "))
    kept = Path(path.removeprefix("messages of Ray: "))
    assert kept.read_text().splitlines() == ["[E core_worker] before the folder exists", "[E raylet] later"]
    kept.unlink()


def test_removed_or_full_file_does_not_end_the_command(tmp_path):
    removed = run(tmp_path, inside="(folder / 'ray.log').unlink(); os.ftruncate(2, 0)")
    assert "Traceback" not in removed
    # /dev/full accepts no byte, as a full disk. The messages then stay in a file without a name.
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "ray.log").symlink_to("/dev/full")
    line = run(tmp_path / "full").splitlines()[-2]
    kept = Path(line.removeprefix("messages of Ray: "))
    assert kept.read_text() == "[E core_worker] before the folder exists\n[E raylet] later\n"
    kept.unlink()


def test_verbose_shows_native_messages(tmp_path):
    printed = run(tmp_path, verbose=True)
    assert "[E raylet] later" in printed
    assert list(tmp_path.iterdir()) == []
