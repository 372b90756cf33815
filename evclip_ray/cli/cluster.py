"""Clusters: check a file before it costs anything, look at a running one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from evclip_ray.cli.display import console
from evclip_ray.cli.options import example

if TYPE_CHECKING:
    from evclip_ray.cluster.lint.needs import Needs
    from evclip_ray.cluster.status import NodeUse, Work
    from evclip_ray.tuning.search_space import SearchSpace

_GIB = 1024**3
# What Ray calls by the name of our code.
_NAMES = {"run_trial": "a trial", "RayTrainWorker": "a worker of a trial"}
_ADDRESS = click.option(
    "--address",
    default=None,
    help="A running cluster: auto, HOST:6379 or ray://HOST:10001.",
)


@click.group("cluster")
def cluster_group() -> None:
    """Check the file of a cluster, or a running cluster; see what it does."""


@cluster_group.command(epilog=example("evclip-ray cluster check cluster/aws.yaml --space ev_clip"))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--space", default=None, help="A search space: is there a machine that its trials fit on?")
@click.option(
    "--storage", type=click.Path(path_type=Path), default=Path("/shared"), show_default=True,
    help="Folder that every node must read and write.",
)  # fmt: skip
@click.option(
    "--crd", "crds", type=click.Path(path_type=Path), multiple=True,
    help="KubeRay's own definitions, by kubectl get crd rayclusters.ray.io -o yaml; repeatable.",
)  # fmt: skip
@click.option("--min-free-gb", default=20.0, show_default=True, help="Disk space wanted there, for shards.")
@_ADDRESS
@click.pass_context
def check(
    context: click.Context, file: Path | None, space: str | None, storage: Path, min_free_gb: float,
    crds: tuple[Path, ...], address: str | None,
) -> None:  # fmt: skip
    """Check FILE (ray up, Kubernetes or Slurm) without a cloud; with --address the cluster that runs."""
    from evclip_ray.cluster.lint.check import check_file
    from evclip_ray.cluster.lint.needs import Needs
    from evclip_ray.config import ConfigError

    if file is None and address is None:
        raise ConfigError("cluster check: needs a FILE, the --address of a running cluster, or both")
    needs = Needs(_read(space) if space else None, storage)
    problems = []
    if file is not None:
        found = check_file(file, needs, crds=crds)
        problems = [f"{file}:{problem.line}: {problem.text}" for problem in found]
    if address is not None:
        problems += _check_running(address, needs, min_free_gb, verbose=context.obj)
    for line in problems:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if problems:
        raise click.ClickException(f"{len(problems)} problems")
    console.print(f"{file or address}: nothing is wrong", soft_wrap=True, markup=False)


def _read(space: str) -> "SearchSpace":
    from evclip_ray.tuning.search_space import find_space, read_space

    # Which videos a study is to read says nothing of the machines that it needs.
    return read_space(find_space(space), {"data.manifest": "any.csv", "data.synthetic": None})


def _check_running(address: str, needs: "Needs", min_free_gb: float, *, verbose: bool) -> list[str]:
    from evclip_ray.cluster.connection import joined, machines
    from evclip_ray.cluster.nodes import node_facts, node_problems

    with joined(address, verbose=verbose):
        facts, known = node_facts([needs.storage]), machines()
    problems = [f"node {node.name}: {problem}" for node in facts for problem in node_problems(node)]
    for node in facts:
        for folder, free in node.free.items():
            if free < min_free_gb * _GIB:
                told = f"{free / _GIB:.1f} GiB are free in {folder}; {min_free_gb:g} are wanted"
                problems.append(f"node {node.name}: {told}")
    if text := needs.placement_problem(known):
        problems.append(text)
    return problems


@cluster_group.command(epilog=example("evclip-ray cluster status --address auto"))
@click.option("--address", default="auto", show_default=True, help="auto, HOST:6379 or ray://HOST:10001.")
@click.option("--wait-for-nodes", type=int, default=0, help="First wait until so many nodes are up.")
@click.option(
    "--wait-seconds", default=600.0, show_default=True, help="Longest time to wait for nodes, in seconds."
)
@click.pass_obj
def status(verbose: bool, address: str, wait_for_nodes: int, wait_seconds: float) -> None:
    """Nodes, who holds GPUs, what decodes, how full the object store is."""
    from evclip_ray.cluster import status as cluster
    from evclip_ray.cluster.address import wait_for_answer
    from evclip_ray.cluster.connection import joined

    if wait_for_nodes:
        wait_for_answer(address, seconds=wait_seconds)
    with joined(address, verbose=verbose):
        if wait_for_nodes:
            cluster.wait_for_nodes(wait_for_nodes, seconds=wait_seconds)
        found = cluster.cluster_status()
    console.print(_nodes_table(found.nodes))
    console.print(_work_table(found.work) if found.work else "nothing runs")
    if found.store_share > 0.8:
        console.print(
            f"the object store of a node is {found.store_share:.0%} full: Ray writes objects to disk"
        )


def _nodes_table(nodes: Sequence["NodeUse"]) -> Table:
    table = Table(title="Nodes (in use / in all)", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("node", "CPU", "GPU", "memory, GiB", "object store, GiB"):
        table.add_column(name, no_wrap=True)
    for node in nodes:
        table.add_row(
            node.name + (" (head)" if node.is_head else ""), _share(node.cpus), _share(node.gpus),
            _share(node.memory, _GIB), _share(node.store, _GIB),
        )  # fmt: skip
    return table


def _work_table(work: Sequence["Work"]) -> Table:
    table = Table(title="Running", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("what", "node", "how many", "CPU", "GPU"):
        table.add_column(name, no_wrap=True)
    for found in work:
        name = _NAMES.get(found.name, found.name) + (f" ({found.trains})" if found.trains else "")
        table.add_row(
            f"{found.kind}: {name}", found.node, str(found.count), f"{found.cpus:g}", f"{found.gpus:g}"
        )
    return table


def _share(use: tuple[float, float], unit: float = 1.0) -> str:
    return f"{use[0] / unit:.3g} / {use[1] / unit:.3g}"
