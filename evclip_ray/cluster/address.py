"""Fast check of whether a Ray cluster answers at an address.

If nothing answers, Ray's own clients wait 30 s (`ray://`), two minutes (`HOST:PORT`) or forever (`http://`),
and a missing token gives the same error. One cheap request with a short timeout distinguishes the cases.
"""

import os
import time

from ray.exceptions import AuthenticationError

from evclip_ray.config import ConfigError
from evclip_ray.optional import require
from evclip_ray.ray_internals import auth_headers, bootstrap_address, canonical_address

SECONDS = 8
_CLIENT = "ray://"
_ADVICE = {
    "auto": "start one with 'ray start --head', or run this on the cluster's head (ray attach)",
    _CLIENT: "the port is 10001; from outside open a tunnel: ssh -L 10001:localhost:10001 HEAD",
    "http": "the port is 8265; from outside open a tunnel: ssh -L 8265:localhost:8265 HEAD",
}
_TOKEN_ADVICE = (
    "set the cluster's token in this shell: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, "
    "or ~/.ray/auth_token"
)
_PURPOSE = "a connection to a cluster"


def is_http(address: str | None) -> bool:
    """Return whether an address is that of a dashboard, which accepts jobs."""
    return address is not None and address.startswith(("http://", "https://"))


def check_answers(address: str) -> str:
    """Check that a Ray cluster answers and accepts our token.

    Args:
        address: `auto`, `HOST:PORT`, `ray://HOST:PORT` or `http://HOST:PORT`.

    Returns:
        The address; `auto` and host names are resolved to `IP:PORT`.

    Raises:
        ConfigError: Nothing answers, something other than Ray answers, or the token is rejected.
    """
    # Before the address is resolved: without RAY_AUTH_MODE, a token in the home folder counts.
    _token(address)
    if address == "auto":
        address = _local_cluster()
    if is_http(address):
        _check_dashboard(address.rstrip("/"))
    elif address.startswith(_CLIENT):
        _check_grpc(address, address.removeprefix(_CLIENT), "/ray.rpc.RayletDriver/ClusterInfo")
    else:
        target = _resolve(address)
        _check_grpc(address, target, "/ray.rpc.NodeInfoGcsService/GetClusterId")
        return target
    return address


def wait_for_answer(address: str, *, seconds: float) -> None:
    """Wait until a Ray cluster answers at an address.

    Raises:
        ConfigError: No cluster answers within `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            check_answers(address)
        except ConfigError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
        else:
            return


def _local_cluster() -> str:
    # ray.init("auto") would also join a private Ray of another user that it sees among the processes.
    address = os.environ.get("RAY_ADDRESS") or bootstrap_address()
    if not address:
        raise ConfigError(f"--address auto: no Ray answers there; {_ADVICE['auto']}")
    return str(address)


def _resolve(address: str) -> str:
    try:
        return canonical_address(address)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--address {address}: {error}; write auto, HOST:6379 or ray://HOST:10001"
        ) from None


def _check_grpc(address: str, target: str, method: str) -> None:
    grpc = require("grpc", extra="cluster", purpose=_PURPOSE)
    # gRPC accepts lower-case keys of metadata only.
    headers = tuple((name.lower(), value) for name, value in _token(address).items())
    with grpc.insecure_channel(target) as channel:
        try:
            # No bytes are a valid message of any protobuf type, with all fields at their defaults. So this
            # call needs none of Ray's generated classes.
            channel.unary_unary(method)(b"", timeout=SECONDS, metadata=headers)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNAUTHENTICATED:
                raise _rejected(address) from None
            # Ray may answer our empty request with NOT_FOUND. That still proves that Ray runs there.
            if code != grpc.StatusCode.NOT_FOUND:
                advice = _ADVICE[_CLIENT if address.startswith(_CLIENT) else "auto"]
                reason = f"({code.name}: {error.details()})"
                raise ConfigError(f"--address {address}: no Ray answers there {reason}; {advice}") from None


def _check_dashboard(address: str) -> None:
    requests = require("requests", extra="cluster", purpose=_PURPOSE)
    try:
        answer = requests.get(f"{address}/api/version", headers=_token(address), timeout=SECONDS)
    except requests.RequestException as error:
        reason = f"({type(error).__name__})"
        raise ConfigError(f"--address {address}: no Ray answers there {reason}; {_ADVICE['http']}") from None
    if answer.status_code in (401, 403):
        raise _rejected(address)
    # A proxy or another web server may also answer with status 200.
    if not answer.ok or "ray_version" not in answer.text:
        raise ConfigError(f"--address {address}: no Ray dashboard answers there; {_ADVICE['http']}")


def _token(address: str) -> dict[str, str]:
    try:
        return auth_headers()
    except AuthenticationError:
        raise _rejected(address) from None


def _rejected(address: str) -> ConfigError:
    return ConfigError(
        f"--address {address}: the cluster rejects this token or requires one; {_TOKEN_ADVICE}"
    )
