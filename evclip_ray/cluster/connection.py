"""Connecting to Ray: a local one that ends with the command, or a running cluster."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from evclip_ray.cluster.address import check_answers
from evclip_ray.cluster.autoscaler import possible_machines
from evclip_ray.cluster.nodes import check_nodes
from evclip_ray.config import ConfigError
from evclip_ray.ray_internals import HEAD_RESOURCE

# Read by Ray in this process and in those that it starts; a user's own setting stands.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # TensorBoard and the tables are written by the training loop, live, in the study's own folder.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Else Tune puts its own print in place of Python's, in this process and for good.
    "RAY_TQDM_PATCH_PRINT": "0",
    # Tune's newer output prints its tables whatever its verbosity.
    "RAY_AIR_NEW_OUTPUT": "0",
}
_NOISY = ("ray", "ray.data", "ray.tune", "ray.train", "ray._private")


@contextlib.contextmanager
def connect(
    address: str | None = None,
    *,
    verbose: bool = False,
    dashboard: bool = False,
    num_cpus: int | None = None,
    storage: Sequence[Path] = (),
) -> Iterator[list[Mapping[str, float]]]:
    """Ray, up for the time of the block; gives the resources of each machine.

    `address` None starts a Ray on this machine and ends it; a Ray that this process is connected
    to already is used and left running. `dashboard` is needed by trials of several workers, which
    free a stopped trial's processes through it. `storage`: folders that every node of a running
    cluster must read and write. The machines of an autoscaling cluster are those that it may start.

    Raises:
        ConfigError: nothing answers at `address`, or a node of the cluster cannot do our work.
    """
    if ray.is_initialized():
        yield machines() if address else alive()
    elif address is None:
        # The shared-memory store carries rows of numbers here, never frames or features.
        options = {
            "include_dashboard": dashboard,
            "object_store_memory": 300 * 1024**2,
            "num_cpus": num_cpus,
        }
        with _session(verbose, lambda told: ray.init(address="local", **options, **told)):
            yield alive()
    else:
        with joined(address, verbose=verbose):
            check_nodes(storage)
            yield machines()


@contextlib.contextmanager
def joined(address: str, *, verbose: bool = False) -> Iterator[Any]:
    """A running cluster, whatever its nodes can do, for the time of the block; gives what Ray says of it.

    Raises:
        ConfigError: nothing answers at `address`, or a Ray of another version.
    """
    with _session(verbose, lambda told: _join(address, told)) as context:
        yield context


def dashboard_of(address: str) -> str:
    """Where a cluster takes jobs that is known by its Ray Client's address, `ray://HOST:PORT`.

    That is the same host, at the port that the cluster says its dashboard has.

    Raises:
        ConfigError: nothing answers at `address`, its cluster has no dashboard, or that is not reached.
    """
    with joined(address) as context:
        port = (context.dashboard_url or "").rpartition(":")[2]
    if not port:
        raise ConfigError(
            f"--address {address}: commands run there as jobs, and the cluster has no dashboard to take them;"
            " start its head with 'ray start --head --include-dashboard=true'"
        )
    try:
        return check_answers(f"http://{urlsplit(address).hostname}:{port}")
    except ConfigError as error:
        raise ConfigError(
            f"--address {address}: commands run there as jobs, which its dashboard takes; {error}"
        ) from None


@contextlib.contextmanager
def _session(verbose: bool, start: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not verbose:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    level = logging.INFO if verbose else logging.ERROR
    context = start({"log_to_driver": verbose, "logging_level": level})
    for name in _NOISY:
        logging.getLogger(name).setLevel(level)
    try:
        yield context
    finally:
        ray.shutdown()


def _join(address: str, options: Mapping[str, Any]) -> Any:
    # Ray itself waits for two minutes at a dead address, and then ends the process.
    address = check_answers(address)
    try:
        return ray.init(address=address, **options)
    except ConnectionError as error:
        raise ConfigError(f"--address {address}: no Ray answers there ({error})") from None
    except RuntimeError as error:
        if "ersion" not in str(error):
            raise
        told = " ".join(str(error).split())
        raise ConfigError(f"--address {address}: {told}; install the same versions here and there") from None


def machines() -> list[Mapping[str, float]]:
    """The machines of a running cluster; of an autoscaling one those that there may be."""
    up, workers = alive(), possible_machines()
    heads = [node for node in up if HEAD_RESOURCE in node]
    return up if workers is None else [*heads, *workers]


def alive() -> list[Mapping[str, float]]:
    """The machines that there are."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
