"""Checking a Slurm batch script that starts Ray on the nodes of an allocation."""

import re
from collections.abc import Iterator

from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import Problem
from evclip_ray.training.resources import GIB

_DIRECTIVE = re.compile(r"#SBATCH\s+--([a-z-]+)(?:[= ](\S+))?")
_KNOWN_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 2**20}


def slurm_problems(text: str, needs: Needs) -> Iterator[Problem]:
    """What is wrong with the directives, the token and the folder."""
    lines = text.splitlines()
    found = {match[1]: (number, match[2] or "") for number, match in _directives(lines)}
    for name in ("nodes", "ntasks-per-node", "cpus-per-task", "mem", "time"):
        if name not in found:
            yield Problem(1, f"#SBATCH --{name}: is missing")
    if found.get("ntasks-per-node", (0, "1"))[1] != "1":
        yield Problem(found["ntasks-per-node"][0], "#SBATCH --ntasks-per-node: must be 1, one Ray a node")
    if "RAY_AUTH_MODE=token" not in text:
        yield Problem(1, "RAY_AUTH_MODE=token is missing; other users of the nodes could run code here")
    for number, line in enumerate(lines, start=1):
        if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", line):
            yield Problem(number, "the dashboard must listen on 127.0.0.1; look at it through a tunnel")
    numbers = re.compile(r"\d+")
    if needs.space is not None and all(
        numbers.match(found.get(n, (0, ""))[1]) for n in ("nodes", "cpus-per-task")
    ):
        nodes = int(found["nodes"][1])
        if text := needs.placement_problem([_machine(found)] * nodes) or "":
            yield Problem(found["nodes"][0], f"{needs.space.name}: {text}")


def _directives(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
    for number, line in enumerate(lines, start=1):
        if match := _DIRECTIVE.match(line):
            yield number, match


def _machine(found: dict[str, tuple[int, str]]) -> dict[str, float]:
    gpus = re.search(r"(\d+)$", found.get("gpus-per-node", found.get("gres", (0, "0")))[1])
    memory = re.fullmatch(r"(\d+)([KMGT]?)", found.get("mem", (0, "0"))[1])
    return {
        "CPU": float(found["cpus-per-task"][1]),
        "GPU": float(gpus[1]) if gpus else 0.0,
        # Slurm's default unit is the megabyte.
        "memory": float(memory[1]) * _KNOWN_UNITS[memory[2]] if memory else 64.0 * GIB,
    }
