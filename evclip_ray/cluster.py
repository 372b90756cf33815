"""Connecting to Ray: a local one that ends with the command, or a running cluster."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from evclip_ray.config import ConfigError

# Read by Ray in this process and in those that it starts; a user's own setting stands.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The Train controller takes one report a poll; its own 2 s would pace fast epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    # TensorBoard and the tables are written by the training loop, live, in the study's own folder.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Tune's newer output prints its tables whatever its verbosity.
    "RAY_AIR_NEW_OUTPUT": "0",
}
_NOISY = ("ray", "ray.data", "ray.tune", "ray.train", "ray._private")


@contextlib.contextmanager
def connect(
    address: str | None = None, *, verbose: bool = False, dashboard: bool = False, num_cpus: int | None = None
) -> Iterator[list[Mapping[str, float]]]:
    """Ray, up for the time of the block; gives the resources of each machine.

    `address` None starts a Ray on this machine and ends it; a Ray that this process is connected
    to already is used and left running. `dashboard` is needed by trials of several workers, which
    free a stopped trial's processes through it.

    Raises:
        ConfigError: nothing answers at `address`.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not verbose:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    if ray.is_initialized():
        yield _machines()
        return
    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address is None:
        # The shared-memory store carries rows of numbers here, never frames or features.
        options |= {
            "include_dashboard": dashboard,
            "object_store_memory": 300 * 1024**2,
            "num_cpus": num_cpus,
        }
    try:
        ray.init(address=address or "local", **options)
    except ConnectionError as error:
        raise ConfigError(
            f"--address {address}: no Ray answers there ({error}); start one with 'ray start --head'"
        ) from None
    for name in _NOISY:
        logging.getLogger(name).setLevel(level)
    try:
        yield _machines()
    finally:
        ray.shutdown()


def _machines() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
