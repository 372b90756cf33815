"""Whether a Ray answers at an address, found out in seconds.

Ray's own clients wait 30 s (`ray://`), two minutes (`HOST:PORT`) or for ever (`http://`) where
nothing answers, and say the same of a missing token. One request that costs nothing tells.
"""

import os
import time

import grpc
import requests
from ray.exceptions import AuthenticationError

from evclip_ray.config import ConfigError
from evclip_ray.ray_internals import auth_headers, bootstrap_address, canonical_address

SECONDS = 8
_CLIENT = "ray://"
_CURE = {
    "auto": "start one with 'ray start --head', or run this on the cluster's head (ray attach)",
    _CLIENT: "the port is 10001; from outside open a tunnel: ssh -L 10001:localhost:10001 HEAD",
    "http": "the port is 8265; from outside open a tunnel: ssh -L 8265:localhost:8265 HEAD",
}
TOKEN_CURE = (
    "give this shell the cluster's: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, or ~/.ray/auth_token"
)


def is_http(address: str | None) -> bool:
    """Whether it is the address of a dashboard, to which jobs are submitted."""
    return address is not None and address.startswith(("http://", "https://"))


def check_answers(address: str) -> str:
    """The address as it is, `auto` as HOST:PORT, once a Ray has answered there.

    Raises:
        ConfigError: nothing answers, it is no Ray, or it wants another token.
    """
    # Before the address is resolved: a token in the home folder counts unless RAY_AUTH_MODE says otherwise.
    _token(address)
    if address == "auto":
        address = _running()
    if is_http(address):
        _check_dashboard(address.rstrip("/"))
    elif address.startswith(_CLIENT):
        _check_grpc(address, address.removeprefix(_CLIENT), "/ray.rpc.RayletDriver/ClusterInfo")
    else:
        found = _resolve(address)
        _check_grpc(address, found, "/ray.rpc.NodeInfoGcsService/GetClusterId")
        return found
    return address


def wait_for_answer(address: str, *, seconds: float) -> None:
    """Wait until a Ray answers there. Raises: ConfigError: none does in this time."""
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


def _running() -> str:
    # Ray itself would also join any other user's private Ray that it finds among the processes.
    found = os.environ.get("RAY_ADDRESS") or bootstrap_address()
    if not found:
        raise ConfigError(f"--address auto: no Ray answers there; {_CURE['auto']}")
    return str(found)


def _resolve(address: str) -> str:
    try:
        found = canonical_address(address)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--address {address}: {error}; write auto, HOST:6379 or ray://HOST:10001"
        ) from None
    return str(found)


def _check_grpc(address: str, target: str, method: str) -> None:
    headers = tuple((name.lower(), value) for name, value in _token(address).items())
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=SECONDS, metadata=headers)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNAUTHENTICATED:
                raise _refused(address) from None
            # A Ray that dislikes our empty question is a Ray all the same.
            if code != grpc.StatusCode.NOT_FOUND:
                cure = _CURE[_CLIENT if address.startswith(_CLIENT) else "auto"]
                told = f"({code.name}: {error.details()})"
                raise ConfigError(f"--address {address}: no Ray answers there {told}; {cure}") from None


def _check_dashboard(address: str) -> None:
    try:
        answer = requests.get(f"{address}/api/version", headers=_token(address), timeout=SECONDS)
    except requests.RequestException as error:
        told = f"({type(error).__name__})"
        raise ConfigError(f"--address {address}: no Ray answers there {told}; {_CURE['http']}") from None
    if answer.status_code in (401, 403):
        raise _refused(address)
    if not answer.ok or "ray_version" not in answer.text:
        raise ConfigError(f"--address {address}: no Ray dashboard answers there; {_CURE['http']}")


def _token(address: str) -> dict[str, str]:
    try:
        return auth_headers()
    except AuthenticationError:
        raise _refused(address) from None


def _refused(address: str) -> ConfigError:
    return ConfigError(f"--address {address}: the cluster refuses this token, or wants one; {TOKEN_CURE}")
