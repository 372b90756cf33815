"""Requirements of a local Ray on the machine: loopback, a short temporary folder and a token.

Ray places Unix sockets below its temporary folder, whose paths have a limit of 107 bytes, and stores a token
in the home folder. Batch systems set a long `TMPDIR` for each job. Containers run as users without a home.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evclip_ray.config import ConfigError

log = logging.getLogger(__name__)

# 107 bytes without "/ray/session_2026-11-27_19-40-00_123456_1234567/sockets/plasma_store" and a spare of 3.
_MAX_FOLDER_BYTES = 36
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_PREFIX = "evr-"
_NEW_SECONDS = 60
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextlib.contextmanager
def local_options() -> Iterator[dict[str, Any]]:
    """Prepare this process for a local Ray. Yields options of `ray.init`.

    A temporary folder that this function creates is removed after the block. Those of killed processes are
    removed by the next call.

    Raises:
        ConfigError: The machine has no loopback interface, or no temporary folder fits.
    """
    check_loopback()
    provide_token()
    base, problem = temporary_base()
    if problem is None:
        yield {}
        return
    log.warning("%s; Ray uses %s", problem, base)
    _remove_abandoned(base)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
    # The kernel releases the lock with its owner, which may die without leaving the block.
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {"_temp_dir": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of this user whose owner is dead."""
    for folder in base.glob(f"{_PREFIX}*"):
        # Another process may remove the folder, or may not have locked a new one yet.
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_ctime < _NEW_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def check_loopback() -> None:
    """Check that processes of this machine can connect to each other at 127.0.0.1.

    Raises:
        ConfigError: They cannot.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            "Ray needs connections within this machine, which fail at 127.0.0.1 "
            f"({error.strerror or error}). Enable the loopback interface (ip link set lo up), or start the "
            "container with a network"
        ) from None


def provide_token() -> None:
    """Set a token for a local Ray in the environment, unless the user has one.

    Ray would write one to `~/.ray/auth_token`, which fails without a writable home folder. Every process of a
    local Ray inherits the environment, so that no file is needed.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if any(os.environ.get(name) for name in _TOKEN_VARIABLES) or _has_token_file():
        return
    # Ray's processes and a later session of this process share it: Ray reads the token once per process.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token_file() -> bool:
    try:
        return os.access(Path.home() / ".ray" / "auth_token", os.R_OK)
    except RuntimeError:
        # Neither HOME nor an entry in the list of users.
        return False


def temporary_base() -> tuple[Path, str | None]:
    """Return the folder in which Ray can place its own, and why it is not the one that is set, or None.

    Raises:
        ConfigError: Neither the folder that is set nor a usual one can be used.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    base = Path(os.environ[name]) if name else Path("/tmp")
    problem = _problem(base)
    if problem is None:
        return base, None
    where = f"{name}={base}" if name else str(base)
    for short in map(Path, _SHORT_FOLDERS):
        if _problem(short) is None:
            return short, f"{where} {problem}"
    raise ConfigError(
        f"{where} {problem}, and none of {', '.join(_SHORT_FOLDERS)} is writable. Set RAY_TMPDIR to a "
        f"writable folder of at most {_MAX_FOLDER_BYTES} bytes"
    )


def _problem(base: Path) -> str | None:
    """Return why Ray cannot have its folder in `base`, None if it can."""
    if len(os.fsencode(base)) > _MAX_FOLDER_BYTES:
        return f"is too long for Ray's sockets (more than {_MAX_FOLDER_BYTES} bytes)"
    if not base.is_absolute():
        return "is not an absolute path"
    # Ray creates the folder if it is missing.
    existing = next((folder for folder in (base, *base.parents) if folder.exists()), base)
    return None if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else "is not writable"
