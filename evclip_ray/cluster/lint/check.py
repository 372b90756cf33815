"""Check of a cluster file on this machine, before the cluster costs anything."""

from collections.abc import Sequence
from pathlib import Path

from evclip_ray.cluster.lint.crd import read_schemas
from evclip_ray.cluster.lint.kubernetes import KINDS, manifest_problems
from evclip_ray.cluster.lint.launcher import launcher_problems
from evclip_ray.cluster.lint.problems import Problem, common_problems, read_documents, read_text
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.cluster.lint.slurm import slurm_problems
from evclip_ray.config import ConfigError


def check_file(path: Path, requirements: Requirements, *, crds: Sequence[Path] = ()) -> list[Problem]:
    """Return the problems of a `ray up` file, of Kubernetes manifests or of a Slurm script, by line.

    Args:
        path: The file to check.
        requirements: Requirements of the study on the cluster.
        crds: Files with KubeRay's custom resource definitions. The fields of a RayCluster and a RayJob are
            only checked if these are given; `kubectl apply --dry-run=server` checks the same.

    Raises:
        ConfigError: The file cannot be read or has another format.
    """
    text = read_text(path)
    problems = set(common_problems(text))
    if "#SBATCH" in text:
        return sorted(problems.union(slurm_problems(text, requirements)))
    documents = read_documents(path)
    if any("kind" in document.data for document in documents):
        return sorted(problems.union(manifest_problems(documents, requirements, read_schemas(crds))))
    if len(documents) == 1 and {"cluster_name", "provider"} & set(documents[0].data):
        return sorted(problems.union(launcher_problems(documents[0], requirements)))
    raise ConfigError(
        f"{path}: must be a file of 'ray up' (cluster_name, provider), a Slurm script (#SBATCH), or "
        f"Kubernetes manifests ({', '.join(KINDS)})"
    )
