"""Checking the file of a cluster before it costs anything."""

from collections.abc import Sequence
from pathlib import Path

from evclip_ray.cluster.lint.crd import read_schemas
from evclip_ray.cluster.lint.kubernetes import KINDS, manifest_problems
from evclip_ray.cluster.lint.launcher import launcher_problems
from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import Problem, common_problems, read_documents, read_text
from evclip_ray.cluster.lint.slurm import slurm_problems
from evclip_ray.config import ConfigError


def check_file(path: Path, needs: Needs, *, crds: Sequence[Path] = ()) -> list[Problem]:
    """Everything that is wrong with a file of `ray up`, Kubernetes manifests or a Slurm script, by line.

    `crds`: the operator's own definitions, in place of our shorter ones.

    Raises:
        ConfigError: it cannot be read, or is none of these.
    """
    text = read_text(path)
    found = list(common_problems(text))
    if "#SBATCH" in text:
        return sorted({*found, *slurm_problems(text, needs)})
    documents = read_documents(path)
    if any("kind" in document.data for document in documents):
        return sorted({*found, *manifest_problems(documents, needs, read_schemas(crds))})
    if len(documents) == 1 and {"cluster_name", "provider"} & set(documents[0].data):
        return sorted({*found, *launcher_problems(documents[0], needs)})
    raise ConfigError(
        f"{path}: must be a file of 'ray up' (cluster_name, provider), a Slurm script (#SBATCH), or "
        f"Kubernetes manifests ({', '.join(KINDS)})"
    )
