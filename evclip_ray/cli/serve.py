"""The command `serve`."""

import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.options import example
from evclip_ray.cli.progress import load_torch
from evclip_ray.config import ConfigError, parse_assignments
from evclip_ray.formatting import counted, shell
from evclip_ray.optional import require
from evclip_ray.termination import exit_status

if TYPE_CHECKING:
    from evclip_ray.deploy.server.limits import ServerSettings


@click.command(epilog=example("evclip-ray serve studies/first/best --replicas 2 --gpus 0.5"))
@click.argument("checkpoint")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Another one than this machine's needs a token in $EVCLIP_RAY_TOKEN.",
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Number of replicas.")
@click.option(
    "--gpus",
    type=click.FloatRange(0),
    default=None,
    help="GPUs per replica. A fraction lets replicas share one. Default: the GPUs of this machine, shared "
    "among the replicas, at most one each.",
)
@click.option(
    "--cpus",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="CPUs per replica, which are the threads of its network.",
)
@click.option(
    "--decoders",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Processes per replica that decode.",
)
@click.option(
    "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Most views per forward pass."
)
@click.option(
    "--classes",
    multiple=True,
    metavar="NAME",
    help="Class to recognise instead of those of the checkpoint, where the method allows it. Repeatable.",
)
@click.option(
    "--allow-url",
    "allow_urls",
    multiple=True,
    metavar="PREFIX",
    help="Requests may name videos by URLs below this one, such as https://host/videos/. Repeatable. "
    "Default: none.",
)
@click.option(
    "--limit",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Limit of requests, such as upload_megabytes=500 or duration_seconds=3600. Repeatable.",
)
@click.option("--no-token", is_flag=True, help="Let other machines use the server without a token.")
@click.pass_context
def serve(
    context: click.Context,
    /,
    checkpoint: str,
    host: str,
    port: int,
    gpus: float | None,
    allow_urls: tuple[str, ...],
    assignments: tuple[str, ...],
    classes: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve a CHECKPOINT over HTTP: POST a video to /predict, or drop it on the web page.

    With $EVCLIP_RAY_TOKEN set, requests must carry this token. Ctrl-C ends the server.
    """
    place = _checked(checkpoint)
    for module in ("fastapi", "python_multipart", "uvicorn"):
        require(module, extra="serve", purpose="the server")
    load_torch()
    from evclip_ray.deploy.server.addresses import AllowedUrls
    from evclip_ray.deploy.server.limits import ServerSettings, token_of

    settings = ServerSettings.load(
        {
            "checkpoint": place,
            "host": host,
            "classes": classes or None,
            "allow_urls": allow_urls,
            "gpus": gpus or 0,
            "limits": parse_assignments(assignments, option="--limit"),
            **options,
        }
    )
    AllowedUrls(settings.allow_urls)
    token = token_of(settings)
    _check_port(host, port)
    try:
        _serve(context, settings, port, find_gpus=gpus is None, has_token=token is not None)
    except KeyboardInterrupt:
        console.print("\nstopped")
        context.exit(exit_status())


def _serve(
    context: click.Context, settings: "ServerSettings", port: int, *, find_gpus: bool, has_token: bool
) -> None:
    from evclip_ray.cluster.connection import connect
    from evclip_ray.deploy.server.uploads import remove_abandoned

    console.print("starting Ray ...")
    try:
        with connect(verbose=bool(context.obj)) as machines:
            if find_gpus:
                settings = settings.model_copy(update={"gpus": _share_of_gpus(machines, settings.replicas)})
            _check_resources(machines, settings)
            # Imports Ray Serve, which takes seconds, so that a mistake above costs none.
            from evclip_ray.deploy.server.replica import running

            console.print(
                f"loading {settings.checkpoint} in {counted(settings.replicas, 'replica')}, each with "
                f"{settings.cpus:g} CPU and {settings.gpus:g} GPU ...",
                soft_wrap=True,
            )
            with running(settings, port=port):
                _print_address(settings.host, port, has_token=has_token)
                threading.Event().wait()
    finally:
        # Processes that were ended could not remove their files.
        remove_abandoned()


def _print_address(host: str, port: int, *, has_token: bool) -> None:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    token = ' -H "Authorization: Bearer $EVCLIP_RAY_TOKEN"' if has_token else ""
    console.print(f"serving {url} (API: {url}/docs). Ctrl-C ends it.", soft_wrap=True)
    console.print(f"  curl{token} -F video=@my.mp4 {shell(f'{url}/predict')}", soft_wrap=True)


def _checked(checkpoint: str) -> str:
    """Return a URI, or the absolute path of a checkpoint that exists: Ray takes seconds to start.

    Raises:
        ValueError: The folder is not a checkpoint.
    """
    if "://" in checkpoint:
        return checkpoint
    from evclip_ray.training.checkpoint_record import read_record

    # Processes of Ray have another working directory.
    folder = Path(checkpoint).expanduser().resolve()
    read_record(folder)
    return str(folder)


def _check_port(host: str, port: int) -> None:
    """Check that the address is free.

    Raises:
        ConfigError: It cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose connections are being closed is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"--host {host} --port {port}: cannot be listened on ({reason}); choose another --port or --host"
        ) from None


def _share_of_gpus(machines: Sequence[Mapping[str, float]], replicas: int) -> float:
    number = sum(machine.get("GPU", 0) for machine in machines)
    # Ray refuses fractions with more than four decimals.
    return min(1.0, int(number / replicas * 10_000) / 10_000)


def _check_resources(machines: Sequence[Mapping[str, float]], settings: "ServerSettings") -> None:
    """Check that the replicas fit; Ray would wait without end.

    Raises:
        ConfigError: They do not fit.
    """
    for name, option, each in (("CPU", "--cpus", settings.cpus), ("GPU", "--gpus", settings.gpus)):
        available = sum(machine.get(name, 0) for machine in machines)
        needed = settings.replicas * each
        if needed > available:
            raise ConfigError(
                f"{counted(settings.replicas, 'replica')} with {each:g} {name} each need {needed:g} {name}, "
                f"but this machine has {available:g}; lower --replicas or {option}"
            )
