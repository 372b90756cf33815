"""The names of Ray that are not public, each behind one function.

A new Ray version may move or change any of them without notice. `tests/test_ray_internals.py` has one test
per function, so that an upgrade fails there, by name, and not in the middle of a study. No other file of the
package imports a private name of Ray (`tests/test_architecture.py`).
"""

import copy
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)

HEAD_RESOURCE = "node:__internal_head__"
"""Resource that only the head node of a cluster has, with the amount 1."""


def bootstrap_address() -> str | None:
    """Return HOST:PORT of the cluster that `ray start` began on this machine, None without one.

    `ray.init("auto")` would also join a private Ray of another user that it finds among the processes.
    """
    from ray._private import services

    address = services.find_bootstrap_address(None)
    return None if address is None else str(address)


def canonical_address(address: str) -> str:
    """Return an address as HOST:PORT with the host resolved.

    Raises:
        ValueError: the address has another form.
        OSError: the host is unknown.
    """
    from ray._private import services

    return str(services.canonicalize_bootstrap_address(address))


def auth_headers() -> dict[str, str]:
    """Return the HTTP headers that authenticate to a cluster, empty without authentication.

    A token in the home folder counts, as in `ray.init`, unless RAY_AUTH_MODE selects another mode.

    Raises:
        ray.exceptions.AuthenticationError: RAY_AUTH_MODE is `token` and there is no token.
    """
    from ray._private.authentication import authentication_token_setup, http_token_authentication

    # Older versions of Ray use a token only if RAY_AUTH_MODE says so, and have no such function.
    if hasattr(authentication_token_setup, "maybe_enable_token_auth_if_token_available"):
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return dict(http_token_authentication.get_auth_headers_if_auth_enabled({}))


_DEATHS = ("Raylet is terminated.", "A worker died or was killed")


class _Messages:
    """Where Ray's messages go in this process: None for where Ray prints them."""

    stream: TextIO | None = None


def send_messages_to(stream: TextIO | None) -> None:
    """Let `redirect_messages` send the messages of Ray to a stream; None lets Ray print them."""
    _Messages.stream = stream


def are_messages_kept() -> bool:
    """Return whether the messages of Ray go to a stream of their own."""
    return _Messages.stream is not None


def redirect_messages() -> None:
    """Log Ray's messages about a dead raylet or worker, and send all others to `send_messages_to`.

    A death is up to 20 lines. `cluster.ray_watch` reports a dead raylet in one line, and `tuning.callbacks` a
    trial whose process died. The others are those about the cluster, which Ray prints with "(raylet)", and
    the log of its Python code.
    """
    from ray._private import worker
    from ray._private.log import PlainRayHandler

    printed = worker.print_to_stdstream

    @functools.wraps(printed)
    def show(data: dict[str, Any], ignore_prefix: bool) -> None:
        if data["lines"] and str(data["lines"][0]).startswith(_DEATHS):
            log.info("%s", data["lines"][0])
        elif _Messages.stream is not None:
            # Ray itself would write colours.
            _Messages.stream.write("".join(f"{line}\n" for line in data["lines"]))
            _Messages.stream.flush()
        else:
            printed(data, ignore_prefix)

    # `wraps` marks the replacement, which must not be wrapped again by a second start of Ray.
    if not hasattr(printed, "__wrapped__"):
        worker.print_to_stdstream = show
    if _Messages.stream is not None:
        # Ray sets up its loggers at several moments, and gives all of them a handler of this class.
        PlainRayHandler.stream = property(lambda handler: _Messages.stream, lambda handler, stream: None)


_SLOW_STARTS = (
    # `Node.__init__`: 30 s for the raylet, in the code.
    "The current node timed out during startup",
    # `Node.start_gcs_server`: 30 s for its port, and then a few connections.
    "Timed out waiting for file",
    "Failed to start GCS",
)


def is_slow_start(error: Exception) -> bool:
    """Return whether `ray.init` gave up because the processes of a local Ray did not answer in time.

    Ray raises bare exceptions, so their text must be matched.
    """
    return isinstance(error, Exception) and str(error).startswith(_SLOW_STARTS)


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """Return the free resources of every node by its id; `ray.available_resources` returns their sum."""
    from ray._private.state import available_resources_per_node

    free: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    return free


def store_value(key: str, value: str | None, *, namespace: str) -> None:
    """Write a value to the cluster's key-value store, or delete the key if `value` is None."""
    from ray.experimental import internal_kv

    if value is None:
        internal_kv._internal_kv_del(key, namespace=namespace)
    else:
        internal_kv._internal_kv_put(key, value, namespace=namespace)


def stored_value(key: str, *, namespace: str) -> str | None:
    """Return a value of the cluster's key-value store, None for an unknown key."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key, namespace=namespace)
    return None if value is None else bytes(value).decode()


def propagate_to_workers(variable: str) -> None:
    """Copy an environment variable of this process to the processes of later Ray Train groups."""
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add(variable)


_CANCEL_SECONDS = 5


def cancel_reservation(requester: str) -> None:
    """Release the resources that a Ray Train group reserved.

    Args:
        requester: The name that the group reserved them under, `train-RUN_ID`.
    """
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator

    # Ray Train's own client for it has another form in every second version of Ray.
    coordinator = default_autoscaling_coordinator.get_or_create_autoscaling_coordinator()
    try:
        ray.get(coordinator.cancel_request.remote(requester_id=requester), timeout=_CANCEL_SECONDS)
    except ray.exceptions.RayError as error:
        log.warning("Ray holds the resources of the killed group %s for 3 minutes: %s", requester, error)


def launcher_schema() -> Path:
    """Return the JSON schema of the files of `ray up`."""
    import ray.autoscaler

    return Path(ray.autoscaler.__file__).with_name("ray-schema.json")


def check_launcher_config(config: dict[str, Any]) -> None:
    """Validate a file of `ray up` as far as Ray does before its first call to a cloud.

    Raises:
        jsonschema.ValidationError: the file does not follow the schema.
        ValueError, TypeError, RuntimeError, SystemExit: Ray rejects it for another reason.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def wait_for_ended_trials(seconds: int) -> None:
    """Let Tune wait for the thread of the last trial before it reuses this process for the next one.

    After 2 s by default, Tune drops the next trial without telling the searcher, which then waits for it
    forever. On a busy machine the end of a trial takes longer.
    """
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(seconds)


def repeat_brackets(scheduler: Any, times: int) -> None:
    """Repeat the brackets of an `AsyncHyperBandScheduler` that has no trials yet: A B becomes A B A B.

    Args:
        scheduler: The scheduler.
        times: Number of copies of the list of brackets.
    """
    brackets = [copy.deepcopy(bracket) for _ in range(times) for bracket in scheduler._brackets]
    scheduler._brackets = brackets


def assign_bracket(scheduler: Any, trial_id: str, choose: Callable[[Sequence[int]], int]) -> None:
    """Put a trial into a bracket of an `AsyncHyperBandScheduler`, which itself draws one at random.

    Args:
        scheduler: The scheduler, after its `on_trial_add`.
        trial_id: Tune's id of the trial.
        choose: Returns the index of the bracket, given the number of rungs of each.
    """
    brackets = scheduler._brackets
    scheduler._trial_info[trial_id] = brackets[choose([len(bracket._rungs) for bracket in brackets])]
