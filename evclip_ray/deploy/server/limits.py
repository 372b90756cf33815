"""Settings and limits of the server, and refusals: errors of one request with their HTTP status."""

import ipaddress
import os
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config, ConfigError

TOKEN_VARIABLE = "EVCLIP_RAY_TOKEN"
"""Environment variable of the bearer token. A setting would end up in the logs and state of Ray."""

# A header cannot hold other characters, and a proxy may trim spaces.
_MIN_TOKEN = 8

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class Refusal(Exception):
    """Request that the server refuses.

    Attributes:
        status: HTTP status.
        reason: One line: what is wrong, the value and the limit.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def __str__(self) -> str:
        return self.reason


class Limits(Config):
    """Limits of one request, and of the requests of one replica at a time.

    Attributes:
        upload_megabytes: Largest video file, in MB of 10^6 bytes.
        upload_seconds: Longest time in which a whole request body must arrive.
        stall_seconds: Longest time without any byte of the body.
        duration_seconds: Longest video.
        pixels: Largest picture, width times height. The default admits 4096 x 2304, and refuses 8K.
        decode_seconds: Longest time of decoding one video.
        decode_megabytes: Memory of the process that decodes, in MiB.
        windows: Most windows of one video.
        classes: Most class names of one request.
        requests: Most requests that one replica receives, decodes or computes at a time.
    """

    upload_megabytes: float = Field(default=200, gt=0)
    upload_seconds: float = Field(default=120, gt=0)
    stall_seconds: float = Field(default=10, gt=0)
    duration_seconds: float = Field(default=600, gt=0)
    pixels: int = Field(default=4096 * 2304, ge=1)
    decode_seconds: float = Field(default=30, gt=0)
    decode_megabytes: int = Field(default=2048, ge=256)
    windows: int = Field(default=200, ge=1)
    classes: int = Field(default=256, ge=1)
    requests: int = Field(default=64, ge=1)

    @property
    def upload_bytes(self) -> int:
        """Largest video file in bytes."""
        return int(self.upload_megabytes * 1_000_000)


class ServerSettings(Config):
    """Settings of the server.

    Attributes:
        checkpoint: Folder or URI of the checkpoint.
        classes: Class names, where the method can recognise others than those of its training. None: the
            classes of the checkpoint.
        device: Device of the network; None for CUDA if the replica has a GPU.
        gpus: GPUs per replica; a fraction shares one GPU.
        cpus: CPUs per replica.
        replicas: Number of replicas.
        batch_size: Most views in one forward pass.
        decoders: Processes per replica that decode videos.
        host: Address that the server listens on.
        allow_urls: Prefixes of the URLs that a request may name; none by default.
        no_token: Serve on another address than loopback without a token.
        limits: Limits of requests.
    """

    checkpoint: str
    classes: tuple[ClassName, ...] | None = None
    device: str | None = None
    gpus: float = Field(default=0, ge=0)
    cpus: float = Field(default=1, gt=0)
    replicas: int = Field(default=1, ge=1)
    batch_size: int = Field(default=8, ge=1)
    decoders: int = Field(default=2, ge=1)
    host: str = "127.0.0.1"
    allow_urls: tuple[str, ...] = ()
    no_token: bool = False
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> Self:
        # Ray shares one GPU between processes. More than one can only be given whole.
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be a whole number above 1, got {self.gpus:g}")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether an address is that of this machine only, such as 127.0.0.1, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_of(settings: ServerSettings) -> str | None:
    """Return the bearer token that requests must carry; None if the server needs none.

    Raises:
        ConfigError: The token is too short, or other machines could use the server without a token.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token:
        if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{TOKEN_VARIABLE} must have at least {_MIN_TOKEN} ASCII characters and no spaces, for "
                f"example {TOKEN_VARIABLE}=$(openssl rand -hex 24)"
            )
        return token
    if not settings.is_loopback and not settings.no_token:
        raise ConfigError(
            f"--host {settings.host}: other machines can reach the server, and {TOKEN_VARIABLE} is not set. "
            f"Set it ({TOKEN_VARIABLE}=$(openssl rand -hex 24)), or allow requests without a token with "
            "--no-token"
        )
    return None
