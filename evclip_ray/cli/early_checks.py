"""Checks of names, settings and lists before PyTorch, OpenCLIP and Ray are imported, which takes seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evclip_ray.artifacts import LEDGER, ArtifactError, cache_folder
from evclip_ray.config import ConfigError, Overrides, nearest, nearest_path, read_yaml
from evclip_ray.formatting import shell
from evclip_ray.tuning.space_files import find_space

if TYPE_CHECKING:
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.tuning.search_space import SearchSpace

SPLITS = ("train", "val", "test")
"""Values of `--split`: `data.manifest.validation.SPLITS`, whose import would slow `--help` down."""


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


def check_study(
    space: str, overrides: Overrides, study: Mapping[str, Any], *, out: Path | None, cache: Path | None
) -> None:
    """Check the settings of a study and, if it is new, its list of videos.

    Args:
        space: File or name of the search space.
        overrides: Settings of all trials.
        study: Settings of the section `study`.
        out: Folder of the study; None for the default.
        cache: Folder of decoded videos; None for the default.

    Raises:
        ConfigError: A setting is unknown or has an invalid value.
        ManifestError: The list is invalid, or its videos are missing.
    """
    path = check_space(space)
    # Imported here: `--help` needs no NumPy.
    from evclip_ray.tuning.search_space import read_space

    searched = read_space(path, overrides, study=study)
    check_videos(searched, out or Path("studies") / searched.name, cache)


def check_videos(space: "SearchSpace", out: Path, cache: Path | None) -> None:
    """Check the list of videos of a study or ladder that has not begun. A finished one needs no videos.

    Args:
        space: Search space.
        out: Folder of the study or ladder.
        cache: Folder of decoded videos; None for the default.

    Raises:
        ManifestError: The list is invalid, or its videos are missing.
    """
    if not (out.expanduser() / LEDGER).is_file():
        _check_source(space.experiment(space.first_point()), cache)


def check_experiment(path: Path, overrides: Overrides | None = None, *, cache: Path | None = None) -> None:
    """Check the settings of an experiment and its list of videos.

    Args:
        path: YAML file of the experiment.
        overrides: Settings that replace those of the file; None checks the kind of the file alone.
        cache: Folder of decoded videos; None for the default.

    Raises:
        ConfigError: The file is missing, not YAML, or a search space, or a setting is wrong.
        ManifestError: The list is invalid, or its videos are missing.
    """
    tree = read_yaml(path)
    if tree.keys() & {"search", "fixed", "ladder"} and not _is_experiment(tree):
        tune = shell("evclip-ray", "tune", path)
        raise ConfigError(
            f"{path}: is a search space, not an experiment. Search it with {tune}, and train the best.yaml "
            "of its study"
        )
    if overrides is None:
        return
    from evclip_ray.training.experiment import read_experiment

    _check_source(read_experiment(path, overrides), cache)


def check_checkpoint(
    checkpoint: str | Path, overrides: Overrides, *, reads_list: bool = False, cache: Path | None = None
) -> None:
    """Check that a local checkpoint exists, and the settings that replace those of its training.

    Args:
        checkpoint: Folder or URI.
        overrides: Settings by dotted path.
        reads_list: Whether the command reads the list of videos, so that it is checked too.
        cache: Folder of decoded videos; None for the default.

    Raises:
        ArtifactError: The folder is not a checkpoint.
        ConfigError: A setting is unknown or has an invalid value.
        ManifestError: The list is invalid.
    """
    if "://" in str(checkpoint):
        return
    from evclip_ray.training.checkpoint_record import check_is_checkpoint, read_record
    from evclip_ray.training.experiment import ExperimentConfig

    folder = Path(checkpoint)
    # Of a study's checkpoint, the command also says how to get it back.
    if not (folder.absolute().parent / "trials").is_dir():
        check_is_checkpoint(folder)
    try:
        recorded = read_record(folder)["experiment"]
    # The command itself reports a damaged file, and how to get it back.
    except (ArtifactError, KeyError, TypeError):
        return
    experiment = ExperimentConfig.load(recorded, overrides)
    if reads_list and experiment.data.manifest is not None:
        from evclip_ray.training.video_lists import resolve_manifest

        # Of its videos, those of the split are needed alone. The command looks for them.
        resolve_manifest(experiment.data, cache=cache_folder(cache))


def check_data(data: str | None) -> None:
    """Check that a local manifest or folder of videos exists.

    Raises:
        ConfigError: It does not.
    """
    if data is not None and "://" not in data and not Path(data).expanduser().exists():
        hint = nearest_path(Path(data)) or "; check the path"
        raise ConfigError(f"{Path(data).expanduser().resolve()}: no such manifest or folder{hint}")


def check_path(path: Path, kind: str) -> None:
    """Check that a file or folder exists.

    Args:
        path: File or folder.
        kind: What it is, for the message.

    Raises:
        ConfigError: It does not exist.
    """
    if not path.expanduser().exists():
        raise ConfigError(f"{path}: no such {kind}{nearest_path(path) or '; check the path'}")


def check_protocol(protocol: str) -> None:
    """Check that a protocol exists.

    Raises:
        ConfigError: It does not.
    """
    from evclip_ray.data.manifest.protocols import EVALUATIONS

    if protocol not in EVALUATIONS:
        raise ConfigError(f"protocol {protocol!r} is unknown; {nearest(protocol, list(EVALUATIONS))}")


def _check_source(experiment: "ExperimentConfig", cache: Path | None) -> None:
    from evclip_ray.training.video_lists import check_source

    check_source(experiment, cache=cache_folder(cache))


def _is_experiment(tree: dict[str, Any]) -> bool:
    sections = {str(key).partition(".")[0] for key in tree}
    return bool(sections & {"data", "backbone", "method", "optim", "view"})
