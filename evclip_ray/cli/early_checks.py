"""Checks of names and files before PyTorch, OpenCLIP and Ray are imported, which takes seconds."""

from pathlib import Path
from typing import Any

from evclip_ray.config import ConfigError, read_yaml
from evclip_ray.formatting import shell
from evclip_ray.tuning.space_files import find_space


def check_space(space: str) -> Path:
    """Return the file of a search space, which must be YAML with the sections of a space.

    Raises:
        ConfigError: There is no such file or shipped space, it is not YAML, or it is an experiment.
    """
    path = find_space(space)
    tree = read_yaml(path)
    if _is_experiment(tree):
        train = shell("evclip-ray", "train", path)
        raise ConfigError(f"{path}: is an experiment, not a search space. Train it with {train}")
    return path


def check_experiment(path: Path) -> None:
    """Check that a file is YAML with the settings of an experiment.

    Raises:
        ConfigError: The file is missing, not YAML, or a search space.
    """
    tree = read_yaml(path)
    if tree.keys() & {"search", "fixed", "ladder"} and not _is_experiment(tree):
        tune = shell("evclip-ray", "tune", path)
        raise ConfigError(
            f"{path}: is a search space, not an experiment. Search it with {tune}, and train the best.yaml "
            "of its study"
        )


def check_data(data: str | None) -> None:
    """Check that a local manifest or folder of videos exists.

    Raises:
        ConfigError: It does not.
    """
    if data is not None and "://" not in data and not Path(data).expanduser().exists():
        raise ConfigError(f"{Path(data).expanduser().resolve()}: no such manifest; check the path")


def _is_experiment(tree: dict[str, Any]) -> bool:
    sections = {str(key).partition(".")[0] for key in tree}
    return bool(sections & {"data", "backbone", "method", "optim", "view"})
