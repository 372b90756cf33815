"""Connection to Ray: a local instance that ends with the command, or a running cluster."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from evclip_ray.cluster.address import check_answers
from evclip_ray.cluster.autoscaler import possible_machines
from evclip_ray.cluster.local_ray import local_options
from evclip_ray.cluster.nodes import check_nodes
from evclip_ray.cluster.ray_watch import RayWatch, end_ray_processes
from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.progress import stage
from evclip_ray.ray_internals import HEAD_RESOURCE, are_messages_kept, is_slow_start, redirect_messages
from evclip_ray.termination import Terminated, note_signal

log = logging.getLogger(__name__)

# Ray reads these in this process and in the processes that it starts. Variables set by the user win.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The training loop itself writes TensorBoard files and tables to the study's folder.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # A task without GPUs then keeps CUDA_VISIBLE_DEVICES, which is Ray's newer behaviour (ray issue 54868).
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Otherwise Tune replaces the built-in `print` of this process permanently.
    "RAY_TQDM_PATCH_PRINT": "0",
    # Tune's newer output ignores the verbosity and always prints its tables.
    "RAY_AIR_NEW_OUTPUT": "0",
}
_STARTING = "starting Ray"
_NOISY = ("ray", "ray.data", "ray.tune", "ray.train", "ray._private")
_TRANSLATED = ("ray.tune.execution.tune_controller", "ray.tune.execution.experiment_state")
"""Loggers whose errors have a traceback and are reported in a line of ours: a trial whose process died (see
`tuning.callbacks`), and a disk on which Tune cannot write its own state, which is not read here."""


@contextlib.contextmanager
def connect(
    address: str | None = None,
    *,
    verbose: bool = False,
    dashboard: bool = False,
    num_cpus: int | None = None,
    storage: Sequence[Path] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[list[Mapping[str, float]]]:
    """Connect to Ray for the duration of a `with` block.

    If this process is already connected, that connection is used and stays open.

    Args:
        address: Address of a running cluster. None starts Ray on this machine and ends it after the block.
        verbose: Show Ray's log.
        dashboard: Start a dashboard. Trials with several workers release the processes of a stopped trial
            through it.
        num_cpus: CPUs that a local Ray offers. Default: all.
        storage: Folders that every node of a running cluster must be able to read and write.
        progress: Called with (description, done, total) before and after a local Ray starts, which takes
            seconds.

    Yields:
        The Ray resources of each machine. For an autoscaling cluster, of each machine that it may start.

    Raises:
        ConfigError: Nothing answers at `address`, a node of the cluster is unusable, or this machine lacks
            what a local Ray needs.
    """
    if ray.is_initialized():
        yield machines() if address else alive()
    elif address is None:
        if progress is not None:
            progress(_STARTING, 0, 1)
        # The object store only holds rows of numbers here, never frames or features, so it can be small.
        options = {
            "include_dashboard": dashboard,
            "object_store_memory": 300 * 1024**2,
            "num_cpus": num_cpus,
        }
        with local_options() as local, _local_session(verbose, {**options, **local}):
            if progress is not None:
                progress(_STARTING, 1, 1)
            yield alive()
    else:
        with joined(address, verbose=verbose):
            check_nodes(storage)
            yield machines()


@contextlib.contextmanager
def joined(address: str, *, verbose: bool = False) -> Iterator[Any]:
    """Connect to a running cluster without checking its nodes. Yields Ray's context.

    Raises:
        ConfigError: Nothing answers at `address`, or the cluster has another version of Ray.
    """
    with _session(verbose, lambda log: _join(address, log)) as context:
        yield context


def dashboard_of(address: str) -> str:
    """Return the dashboard address of a cluster, given the address of its Ray Client, `ray://HOST:PORT`.

    The host is the same. The cluster reports the port of its dashboard.

    Raises:
        ConfigError: Nothing answers at `address`, the cluster has no dashboard, or it is unreachable.
    """
    with joined(address) as context:
        port = (context.dashboard_url or "").rpartition(":")[2]
    if not port:
        raise ConfigError(
            f"--address {address}: commands run there as jobs, but the cluster has no dashboard to submit"
            " them to; start its head with 'ray start --head --include-dashboard=true'"
        )
    try:
        return check_answers(f"http://{urlsplit(address).hostname}:{port}")
    except ConfigError as error:
        raise ConfigError(
            f"--address {address}: commands run there as jobs, submitted to its dashboard; {error}"
        ) from None


@contextlib.contextmanager
def _local_session(verbose: bool, options: Mapping[str, Any]) -> Iterator[None]:
    """Start Ray on this machine, a second time if its processes take longer than Ray waits for them."""

    def start(logging_options: dict[str, Any]) -> Any:
        try:
            return ray.init(address="local", **options, **logging_options)
        except Exception as error:
            if is_slow_start(error):
                raise _SlowStart from error
            raise

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_watched_session(verbose, start))
        except _SlowStart:
            log.warning(
                "Ray's processes did not start in time on this busy machine. Starting them once more."
            )
            try:
                stack.enter_context(_watched_session(verbose, start))
            except _SlowStart:
                raise ConfigError(
                    "Ray's processes did not start in time, twice. This machine is too busy "
                    f"({os.getloadavg()[0]:.1f} processes want one of its "
                    f"{counted(os.cpu_count() or 1, 'CPU')}). Give the "
                    "same command again when other programs have ended"
                ) from None
        yield


@contextlib.contextmanager
def _watched_session(verbose: bool, start: Callable[[dict[str, Any]], Any]) -> Iterator[None]:
    with RayWatch() as watch, _session(verbose, start, watch):
        yield


class _SlowStart(Exception):
    """The processes of a local Ray did not answer in the time that Ray gives them."""


@contextlib.contextmanager
def _session(
    verbose: bool, start: Callable[[dict[str, Any]], Any], watch: RayWatch | None = None
) -> Iterator[Any]:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not verbose:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    redirect_messages()
    level = logging.INFO if verbose else logging.ERROR
    translated = level if verbose or are_messages_kept() else logging.CRITICAL
    with _keeping_sigterm():
        try:
            context = start({"log_to_driver": verbose, "logging_level": level})
        except BaseException as error:
            if watch is not None:
                if isinstance(error, Exception):
                    watch.report()
                watch.end()
                # `ray.init` leaves them running where it fails or is interrupted.
                end_ray_processes()
                watch.end_leftovers(0)
            raise
    # After the start, because `ray.init` sets up its loggers itself.
    for name in _NOISY:
        logging.getLogger(name).setLevel(level)
    for name in _TRANSLATED:
        logging.getLogger(name).setLevel(translated)
    try:
        yield context
    finally:
        if watch is not None:
            watch.end()
        with stage("stopping Ray"):
            ray.shutdown()
            if watch is not None:
                watch.end_leftovers()


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM while Ray starts in the block.

    Ray replaces it by one that exits, and then by one in C++ that prints a stack and aborts.
    """
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        # Ray's handler has ended the processes that had started.
        note_signal(signal.SIGTERM)
        raise Terminated from None
    finally:
        # Without a handler of this process, Ray's own one in Python is registered again instead of that in
        # C++.
        signal.signal(signal.SIGTERM, before if callable(before) else signal.getsignal(signal.SIGTERM))


def _join(address: str, options: Mapping[str, Any]) -> Any:
    # Without this check Ray waits two minutes at a dead address and then ends the process.
    address = check_answers(address)
    try:
        return ray.init(address=address, **options)
    except ConnectionError as error:
        raise ConfigError(f"--address {address}: no Ray answers there ({error})") from None
    except RuntimeError as error:
        # Ray has no exception of its own for a version mismatch, so its text must be matched.
        if "ersion" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--address {address}: {reason}; install the same versions here and on the cluster"
        ) from None


def machines() -> list[Mapping[str, float]]:
    """Return the resources of each machine of the cluster, including those that an autoscaler may start."""
    running, workers = alive(), possible_machines()
    heads = [node for node in running if HEAD_RESOURCE in node]
    # The running workers are among those that may be started, so only the head is added.
    return running if workers is None else [*heads, *workers]


def alive() -> list[Mapping[str, float]]:
    """Return the resources of each running machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
