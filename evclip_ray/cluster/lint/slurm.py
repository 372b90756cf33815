"""Checks of a Slurm batch script that starts Ray on the nodes of an allocation."""

import re
from collections.abc import Iterator, Mapping

from evclip_ray.cluster.lint.problems import Problem
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.training.resources import GIB

_DIRECTIVE = re.compile(r"#SBATCH\s+--([a-z-]+)(?:[= ](\S+))?")
# Slurm's default unit of memory is the megabyte.
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 2**20}
Directives = Mapping[str, tuple[int, str]]
"""Name of a directive -> its line and its value."""


def slurm_problems(text: str, requirements: Requirements) -> Iterator[Problem]:
    """Yield the problems of a script: missing directives, no token, an open dashboard, too small nodes."""
    lines = text.splitlines()
    directives: Directives = {
        match[1]: (number, match[2] or "")
        for number, line in enumerate(lines, start=1)
        if (match := _DIRECTIVE.match(line))
    }
    for name in ("nodes", "ntasks-per-node", "cpus-per-task", "mem", "time"):
        if name not in directives:
            yield Problem(1, f"#SBATCH --{name}: is missing")
    line, tasks = directives.get("ntasks-per-node", (0, "1"))
    if tasks != "1":
        yield Problem(line, "#SBATCH --ntasks-per-node: must be 1, one Ray process tree per node")
    if "RAY_AUTH_MODE=token" not in text:
        yield Problem(1, "RAY_AUTH_MODE=token is missing. Other users of the nodes could run code here")
    for number, line_text in enumerate(lines, start=1):
        if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", line_text):
            yield Problem(number, "the dashboard must listen on 127.0.0.1. Open it through a tunnel")
    sizes = [directives.get(name, (0, ""))[1] for name in ("nodes", "cpus-per-task")]
    # A range of nodes such as 2-4 or a variable has no fixed size to check.
    if requirements.space is not None and all(size.isdecimal() for size in sizes):
        machines = [_resources(directives)] * int(sizes[0])
        if reason := requirements.placement_problem(machines):
            yield Problem(directives["nodes"][0], f"{requirements.space.name}: {reason}")


def _resources(directives: Directives) -> dict[str, float]:
    """Return the Ray resources of one node of the allocation."""
    # The number comes last in every form: 4, gpu:4, gpu:a100:4.
    gpus = re.search(r"(\d+)$", directives.get("gpus-per-node", directives.get("gres", (0, "0")))[1])
    memory = re.fullmatch(r"(\d+)([KMGT]?)", directives.get("mem", (0, "0"))[1])
    return {
        "CPU": float(directives["cpus-per-task"][1]),
        "GPU": float(gpus[1]) if gpus else 0.0,
        "memory": float(memory[1]) * _UNITS[memory[2]] if memory else 64.0 * GIB,
    }
