"""The commands of a launcher's file: same package everywhere, shared storage, ports, and the token."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import Document, Problem
from evclip_ray.version import __version__

_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_PORT = re.compile(r"--([a-z-]*port)[= ](\d+)")
# Ray gives these to its worker processes, unless told otherwise.
_WORKER_PORTS = range(10002, 20000)
_SUFFIX = re.compile(r"-(?:cpu|cuda|gpu)$")


def problems(document: Document, needs: Needs) -> Iterator[Problem]:
    """What is wrong with the commands, the image and who may connect."""
    yield from _of_package(document)
    yield from _of_storage(document, needs)
    for part in _STARTS:
        yield from _of_start(document, part)
    if "~/.ray/auth_token" not in (document.get("file_mounts") or {}):
        text = "file_mounts: ~/.ray/auth_token is missing; without the token the nodes refuse each other"
        yield document.problem(("file_mounts",), text)
    yield from _of_firewall(document)


def _of_package(document: Document) -> Iterator[Problem]:
    docker: Mapping[str, Any] = document.get("docker") or {}
    images = {key: docker[key] for key in ("image", "head_image", "worker_image") if docker.get(key)}
    if not images:
        if not any("pip install" in line and "evclip" in line for line in _lines(document, "setup_commands")):
            text = "setup_commands: must install evclip-ray on every node, or docker name its image"
            yield document.problem(("setup_commands",), text)
        return
    for key, image in images.items():
        name, _, tag = str(image).rpartition(":")
        if not name or "/" in tag or tag == "latest":
            text = f"docker.{key}: must name a version as {image}:{__version__}-cuda, or nodes come to differ"
            yield document.problem(("docker", key), text)
        elif _SUFFIX.sub("", tag) != __version__:
            text = f"docker.{key}: is of version {tag}, here it is {__version__}; build it anew"
            yield document.problem(("docker", key), text)
    if len({_SUFFIX.sub("", str(image)) for image in images.values()}) > 1:
        yield document.problem(
            ("docker",), "docker: head and workers must have the same image but for -cpu, -cuda"
        )


def _of_storage(document: Document, needs: Needs) -> Iterator[Problem]:
    folder = str(needs.storage)
    commands = [*_lines(document, "initialization_commands"), *_lines(document, "setup_commands")]
    if not any(folder in line for line in commands):
        text = (
            f"initialization_commands: nothing mounts {folder} on every node; trials write their checkpoints "
            "there, and map the decoded videos from it (another folder: --storage)"
        )
        yield document.problem(("initialization_commands",), text)
    docker: Mapping[str, Any] = document.get("docker") or {}
    options = " ".join(map(str, docker.get("run_options") or []))
    if docker and f"{folder}:{folder}" not in options:
        text = f"docker.run_options: the container does not see {folder}; add --volume={folder}:{folder}"
        yield document.problem(("docker", "run_options"), text)


def _of_start(document: Document, part: str) -> Iterator[Problem]:
    lines = _lines(document, part)
    place = next((at for at, line in enumerate(lines) if "ray start" in line), None)
    if place is None:
        yield document.problem((part,), f"{part}: nothing starts Ray; one line must be 'ray start ...'")
        return
    line, where = lines[place], (part, place)
    if "RAY_AUTH_MODE=token" not in " ".join(lines):
        text = f"{part}: RAY_AUTH_MODE=token is missing; without it whoever reaches a port runs code here"
        yield document.problem(where, text)
    if "RAY_LOGGER_LEVEL=warning" not in " ".join(lines):
        text = f"{part}: RAY_LOGGER_LEVEL=warning is missing; Ray would log the variables of 'submit --env'"
        yield document.problem(where, text)
    if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", line):
        text = (
            f"{part}: the dashboard must listen on 127.0.0.1; look at it through 'ray dashboard' or a tunnel"
        )
        yield document.problem(where, text)
    yield from (document.problem(where, f"{part}: {text}") for text in _port_problems(line))
    if part == _STARTS[0] and "--autoscaling-config" not in line:
        text = (
            f"{part}: --autoscaling-config=~/ray_bootstrap_config.yaml is missing, so no worker ever starts"
        )
        yield document.problem(where, text)
    if part == _STARTS[1]:
        yield from _of_address(document, line, where)


def _of_address(document: Document, line: str, where: tuple[str, int]) -> Iterator[Problem]:
    head = " ".join(_lines(document, _STARTS[0]))
    wanted = dict(_PORT.findall(head)).get("port", "6379")
    given = re.search(r"--address[= ]\S*?:(\d+)", line)
    if given is None or given[1] != wanted:
        text = f"{where[0]}: must connect by --address=$RAY_HEAD_IP:{wanted}, the port of the head"
        yield document.problem(where, text)


def _port_problems(line: str) -> Iterator[str]:
    ports = _PORT.findall(line)
    numbers = [int(number) for _, number in ports]
    for name, number in ports:
        if numbers.count(int(number)) > 1:
            yield f"port {number} is given twice"
            return
        if int(number) in _WORKER_PORTS and "--min-worker-port" not in line:
            yield f"--{name}={number} is among the ports of Ray's workers (10002 to 19999); choose another"


def _of_firewall(document: Document) -> Iterator[Problem]:
    rules = document.get("provider", "security_group", "IpPermissions") or []
    for place, rule in enumerate(rules):
        everyone = "0.0.0.0/0" in str(rule) or "::/0" in str(rule)
        if everyone:
            where = ("provider", "security_group", "IpPermissions", place)
            port = rule.get("FromPort")
            text = f"provider.security_group: port {port} is open to everyone; name your own address"
            yield document.problem(where, text)


def _lines(document: Document, part: str) -> list[str]:
    return [str(line) for line in document.get(part) or []]
