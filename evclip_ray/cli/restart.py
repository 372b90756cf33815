"""Restart of the running command, once, after a process of its local Ray died."""

import os
import sys
import time
from pathlib import Path

from evclip_ray.cli.options import resume_command
from evclip_ray.cli.ray_messages import messages_file, restore_native_stderr
from evclip_ray.termination import SHOW_CURSOR, write_error

_RESTARTED = "EVCLIP_RAY_RESTARTED"
"""Variable of a restarted command: the start of the first one, on the clock of `time.monotonic`."""


class RestartOnce:
    """Handler of a dead Ray: replace this process by the same command, or exit if it was restarted before.

    The main thread may be blocked in Ray's C++ code, where no exception reaches it. A new process image needs
    no help from it. The command resumes as after a kill: its files are written for that.
    """

    def __init__(self) -> None:
        # As the user has them: this process adds variables and may change its folder.
        self._environment, self._folder = dict(os.environ), Path.cwd()
        self._started = time.monotonic()

    def __call__(self, process: str) -> None:
        """Report the death and restart or exit. Does not return."""
        # A progress bar hides the cursor.
        shown = SHOW_CURSOR if sys.stdout.isatty() else ""
        died = f"{shown}\nRay's process {process} died. Everything finished is kept."
        # Written without Python's buffers, whose locks the main thread may hold.
        if _RESTARTED in self._environment:
            write_error(f"{died} It is started again only once. Resume with:\n  {resume_command()}\n")
            os._exit(1)
        file = messages_file()
        write_error(
            f"{died} Starting Ray again, once.{'' if file is None else f' Messages of Ray: {file}'}\n"
        )
        # The new process would keep descriptor 2 as it is.
        restore_native_stderr()
        os.chdir(self._folder)
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**self._environment, _RESTARTED: str(self._started)})


def remaining(seconds: float | None) -> float | None:
    """Return what is left of a command's time after a restart, in seconds; None for no limit."""
    started = os.environ.get(_RESTARTED)
    if seconds is None or started is None:
        return seconds
    return max(0.0, seconds - (time.monotonic() - float(started)))
