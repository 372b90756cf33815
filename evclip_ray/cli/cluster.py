"""Cluster commands: check a cluster file or a running cluster, and show its status."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from evclip_ray.cli.display import console
from evclip_ray.cli.options import example
from evclip_ray.formatting import counted

if TYPE_CHECKING:
    from evclip_ray.cluster.lint.requirements import Requirements
    from evclip_ray.cluster.status import NodeUse, Work
    from evclip_ray.tuning.search_space import SearchSpace

_GIB = 1024**3
# Ray names trials and workers after our functions and classes.
_NAMES = {"run_trial": "a trial", "RayTrainWorker": "a worker of a trial"}
_ADDRESS = click.option(
    "--address",
    default=None,
    help="A running cluster: auto, HOST:6379 or ray://HOST:10001.",
)


@click.group("cluster")
def cluster_group() -> None:
    """Check a cluster file or a running cluster, and show the status of a cluster."""


@cluster_group.command(epilog=example("evclip-ray cluster check cluster/aws.yaml --space ev_clip"))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--space", default=None, help="Search space whose trials must fit on the machines.")
@click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path("/shared"),
    show_default=True,
    help="Folder that every node must be able to read and write.",
)
@click.option(
    "--crd",
    "crds",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File with KubeRay's definitions (kubectl get crd rayclusters.ray.io -o yaml). Repeatable.",
)
@click.option(
    "--min-free-gb",
    default=20.0,
    show_default=True,
    help="Free disk space that --storage must have, for shards.",
)
@_ADDRESS
@click.pass_context
def check(
    context: click.Context,
    file: Path | None,
    space: str | None,
    storage: Path,
    min_free_gb: float,
    crds: tuple[Path, ...],
    address: str | None,
) -> None:
    """Check FILE (ray up, Kubernetes or Slurm) on this machine, or the running cluster at --address."""
    from evclip_ray.cluster.lint.check import check_file
    from evclip_ray.cluster.lint.requirements import Requirements
    from evclip_ray.config import ConfigError

    if file is None and address is None:
        raise ConfigError("cluster check: needs a FILE, the --address of a running cluster, or both")
    requirements = Requirements(_read(space) if space else None, storage)
    problems = []
    if file is not None:
        problems = [f"{file}:{p.line}: {p.text}" for p in check_file(file, requirements, crds=crds)]
    if address is not None:
        problems += _check_running(address, requirements, min_free_gb, verbose=context.obj)
    for line in problems:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if problems:
        raise click.ClickException(f"{counted(len(problems), 'problem')}")
    console.print(f"{file or address}: no problems found", soft_wrap=True, markup=False)


def _read(space: str) -> "SearchSpace":
    from evclip_ray.tuning.search_space import read_space
    from evclip_ray.tuning.space_files import find_space

    # A space needs some data set to be valid. The machines that it needs do not depend on which.
    return read_space(find_space(space), {"data.manifest": "any.csv", "data.world": None})


def _check_running(
    address: str, requirements: "Requirements", min_free_gb: float, *, verbose: bool
) -> list[str]:
    from evclip_ray.cluster.connection import joined, machines
    from evclip_ray.cluster.nodes import node_facts, node_problems

    with joined(address, verbose=verbose):
        facts, all_machines = node_facts([requirements.storage]), machines()
    problems = [f"node {node.name}: {problem}" for node in facts for problem in node_problems(node)]
    for node in facts:
        for folder, free in node.free.items():
            if free < min_free_gb * _GIB:
                space = f"{free / _GIB:.1f} GiB are free in {folder}; at least {min_free_gb:g} are needed"
                problems.append(f"node {node.name}: {space}")
    if text := requirements.placement_problem(all_machines):
        problems.append(text)
    return problems


@cluster_group.command(epilog=example("evclip-ray cluster status --address auto"))
@click.option("--address", default="auto", show_default=True, help="auto, HOST:6379 or ray://HOST:10001.")
@click.option("--wait-for-nodes", type=int, default=0, help="Wait until this many nodes are up.")
@click.option(
    "--wait-seconds", default=600.0, show_default=True, help="Longest time to wait for nodes, in seconds."
)
@click.pass_obj
def status(verbose: bool, address: str, wait_for_nodes: int, wait_seconds: float) -> None:
    """Show nodes, running trials and decoding, resources in use, and how full the object store is."""
    from evclip_ray.cluster import status as cluster
    from evclip_ray.cluster.address import wait_for_answer
    from evclip_ray.cluster.connection import joined

    if wait_for_nodes:
        wait_for_answer(address, seconds=wait_seconds)
    with joined(address, verbose=verbose):
        if wait_for_nodes:
            cluster.wait_for_nodes(wait_for_nodes, seconds=wait_seconds)
        state = cluster.cluster_status()
    console.print(_nodes_table(state.nodes))
    console.print(_work_table(state.work) if state.work else "nothing runs")
    if state.store_share > 0.8:
        console.print(
            f"the object store of a node is {state.store_share:.0%} full, so Ray spills objects to disk"
        )


def _nodes_table(nodes: Sequence["NodeUse"]) -> Table:
    table = Table(title="Nodes (in use / total)", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("node", "CPU", "GPU", "memory, GiB", "object store, GiB"):
        table.add_column(name, no_wrap=True)
    for node in nodes:
        table.add_row(
            node.name + (" (head)" if node.is_head else ""),
            _share(node.cpus),
            _share(node.gpus),
            _share(node.memory, _GIB),
            _share(node.store, _GIB),
        )
    return table


def _work_table(work: Sequence["Work"]) -> Table:
    table = Table(title="Running", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("work", "node", "count", "CPU", "GPU"):
        table.add_column(name, no_wrap=True)
    for item in work:
        name = _NAMES.get(item.name, item.name) + (f" ({item.trains})" if item.trains else "")
        table.add_row(f"{item.kind}: {name}", item.node, str(item.count), f"{item.cpus:g}", f"{item.gpus:g}")
    return table


def _share(use: tuple[float, float], unit: float = 1.0) -> str:
    return f"{use[0] / unit:.3g} / {use[1] / unit:.3g}"
