"""Checks of a launcher's commands: package and image versions, shared storage, ports, and the token."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evclip_ray.cluster.lint.problems import Document, Problem
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.version import __version__

_HEAD, _WORKER = "head_start_ray_commands", "worker_start_ray_commands"
_PORT = re.compile(r"--([a-z-]*port)[= ](\d+)")
# Ray's default range of ports of its worker processes.
_WORKER_PORTS = range(10002, 20000)
# The images of one version differ by device only: NAME:VERSION-cpu and NAME:VERSION-cuda.
_DEVICE_SUFFIX = re.compile(r"-(?:cpu|cuda|gpu)$")


def problems(document: Document, requirements: Requirements) -> Iterator[Problem]:
    """Yield the problems of the commands, the images and the access rules."""
    yield from _package_problems(document)
    yield from _storage_problems(document, requirements)
    for part in (_HEAD, _WORKER):
        yield from _start_problems(document, part)
    if "~/.ray/auth_token" not in (document.get("file_mounts") or {}):
        text = "file_mounts: ~/.ray/auth_token is missing. Without the token the nodes reject each other"
        yield document.problem(("file_mounts",), text)
    rules = document.get("provider", "security_group", "IpPermissions") or []
    for number, rule in enumerate(rules):
        if "0.0.0.0/0" in str(rule) or "::/0" in str(rule):
            where = ("provider", "security_group", "IpPermissions", number)
            text = (
                f"provider.security_group: port {rule.get('FromPort')} is open to everyone. Use your address"
            )
            yield document.problem(where, text)


def _package_problems(document: Document) -> Iterator[Problem]:
    docker: Mapping[str, Any] = document.get("docker") or {}
    images = {key: docker[key] for key in ("image", "head_image", "worker_image") if docker.get(key)}
    if not images:
        if not any("pip install" in line and "evclip" in line for line in _lines(document, "setup_commands")):
            text = "setup_commands: must install evclip-ray on every node, unless docker sets its image"
            yield document.problem(("setup_commands",), text)
        return
    for key, image in images.items():
        name, _, tag = str(image).rpartition(":")
        if not name or "/" in tag or tag == "latest":
            text = (
                f"docker.{key}: must name a version, such as {image}:{__version__}-cuda, or nodes may differ"
            )
            yield document.problem(("docker", key), text)
        elif _DEVICE_SUFFIX.sub("", tag) != __version__:
            text = f"docker.{key}: has version {tag}, but this evclip-ray is {__version__}. Rebuild the image"
            yield document.problem(("docker", key), text)
    if len({_DEVICE_SUFFIX.sub("", str(image)) for image in images.values()}) > 1:
        text = "docker: head and workers must use the same image, except for the suffix -cpu or -cuda"
        yield document.problem(("docker",), text)


def _storage_problems(document: Document, requirements: Requirements) -> Iterator[Problem]:
    folder = str(requirements.storage)
    commands = [*_lines(document, "initialization_commands"), *_lines(document, "setup_commands")]
    if not any(folder in line for line in commands):
        text = (
            f"initialization_commands: nothing mounts {folder} on every node. Trials write checkpoints there "
            "and read the decoded videos from it. Choose another folder with --storage"
        )
        yield document.problem(("initialization_commands",), text)
    docker: Mapping[str, Any] = document.get("docker") or {}
    options = " ".join(map(str, docker.get("run_options") or []))
    if docker and f"{folder}:{folder}" not in options:
        text = f"docker.run_options: the container does not mount {folder}. Add --volume={folder}:{folder}"
        yield document.problem(("docker", "run_options"), text)


def _start_problems(document: Document, part: str) -> Iterator[Problem]:
    lines = _lines(document, part)
    number = next((n for n, line in enumerate(lines) if "ray start" in line), None)
    if number is None:
        yield document.problem((part,), f"{part}: Ray is not started. Add a line 'ray start ...'")
        return
    # The token can be set in an earlier line than that of `ray start`.
    commands = " ".join(lines)
    for text in _start_line_problems(lines[number], commands, is_head=part == _HEAD):
        yield document.problem((part, number), f"{part}: {text}")
    if part == _WORKER:
        # 6379 is the default port of `ray start --head`.
        head_port = dict(_PORT.findall(" ".join(_lines(document, _HEAD)))).get("port", "6379")
        address = re.search(r"--address[= ]\S*?:(\d+)", lines[number])
        if address is None or address[1] != head_port:
            text = f"{part}: must connect with --address=$RAY_HEAD_IP:{head_port}, the port of the head"
            yield document.problem((part, number), text)


def _start_line_problems(line: str, commands: str, *, is_head: bool) -> Iterator[str]:
    if "RAY_AUTH_MODE=token" not in commands:
        yield "RAY_AUTH_MODE=token is missing. Without it anyone who reaches a port can run code"
    if "RAY_LOGGER_LEVEL=warning" not in commands:
        yield "RAY_LOGGER_LEVEL=warning is missing. Ray would log the variables of 'submit --env'"
    if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", line):
        yield "the dashboard must listen on 127.0.0.1. Open it with 'ray dashboard' or a tunnel"
    if is_head and "--autoscaling-config" not in line:
        yield "--autoscaling-config=~/ray_bootstrap_config.yaml is missing, so workers would never start"
    ports = _PORT.findall(line)
    numbers = [int(number) for _, number in ports]
    for name, number in ports:
        if numbers.count(int(number)) > 1:
            yield f"port {number} is used twice"
            return
        # A worker could take the port before the service that needs it starts.
        if int(number) in _WORKER_PORTS and "--min-worker-port" not in line:
            yield f"--{name}={number} is in the range of Ray's workers (10002 to 19999). Choose another port"


def _lines(document: Document, part: str) -> list[str]:
    return [str(line) for line in document.get(part) or []]
