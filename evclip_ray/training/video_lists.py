"""Lists of videos: reading the manifest of an experiment and checking its files."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evclip_ray.artifacts import digest
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.label_names import name_labels, warn_of_numbers
from evclip_ray.data.manifest.located_files import check_files
from evclip_ray.data.manifest.manifest import Manifest, read_manifest
from evclip_ray.data.storage import Place, is_uri
from evclip_ray.progress import Progress
from evclip_ray.training.experiment import DataConfig, ExperimentConfig, SyntheticConfig
from evclip_ray.training.same_labels import resolve_same_labels


def resolve_manifest(data: DataConfig, *, cache: Path, progress: Progress | None = None) -> Manifest:
    """Read the manifest of a data section. Missing videos of the small world are written first.

    Args:
        data: Data section of an experiment.
        cache: Folder of the small world's videos.
        progress: Progress of writing them.

    Raises:
        ConfigError: The data are the synthetic videos of version 0.1, and they are not in the cache.
    """
    if data.world is not None:
        from evclip_ray.world.data_set import world_folder, write_world

        report = functools.partial(progress, "drawing videos") if progress else None
        return read_manifest(write_world(world_folder(data.world, cache), data.world, progress=report))
    if data.synthetic is not None:
        return _synthetic_manifest(data.synthetic, cache)
    assert data.manifest is not None
    root = _expanded(data.root) if data.root else None
    listed = read_manifest(
        _expanded(data.manifest), root=root, allow_leaks=data.allow_leaks, columns=data.columns
    )
    return listed if data.class_names is None else name_labels(listed, Path(data.class_names))


def list_videos(
    experiment: ExperimentConfig,
    *,
    cache: Path,
    allow_same_labels: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read the manifest of an experiment, with `data.merge_labels` applied, see `resolve_same_labels`.

    Args:
        experiment: Settings of the run.
        cache: Folder of the small world's videos.
        allow_same_labels: Whether labels that CLIP reads as the same text are logged instead of refused.
        progress: Progress of drawing missing videos of the small world.
    """
    data = experiment.data
    listed = resolve_manifest(data, cache=cache, progress=progress)
    if not allow_same_labels:
        warn_of_numbers(listed)
    return resolve_same_labels(
        listed, merge=data.merge_labels, backbone=experiment.backbone.name, allow=allow_same_labels
    )


def _synthetic_manifest(settings: SyntheticConfig, cache: Path) -> Manifest:
    """Read the synthetic videos that version 0.1 left in the cache, for its studies and checkpoints."""
    path = cache / "synthetic" / digest(settings.model_dump()) / "manifest.csv"
    if not path.is_file():
        raise ConfigError(
            f"data.synthetic: replaced by data.world in version 0.2, and {path} does not exist. Name the "
            "cache that has these videos by --cache, or use other ones: --set data.synthetic=null "
            "--set data.world.domain=plain, or --data FILE."
        )
    return read_manifest(path)


def _expanded(place: str) -> Place:
    return place if is_uri(place) else Path(place).expanduser()


def check_videos(
    experiment: ExperimentConfig, manifest: Manifest, rows: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    """Check that a sample of the files of some rows exists, see `check_files`.

    Raises:
        ManifestError: All of the sample are missing.
    """
    # The other sources have just been written to the cache.
    # No rows are needed to import a checkpoint.
    if experiment.data.manifest is not None and rows:
        chosen = np.unique(np.concatenate(list(rows.values())))
        check_files(manifest.column("path"), chosen, manifest.root, manifest.source)


def check_source(experiment: ExperimentConfig, *, cache: Path) -> None:
    """Read the manifest of an experiment and look for a sample of its files, before Ray is started.

    Args:
        experiment: Settings of the run.
        cache: Folder of the small world's videos, which are not drawn yet and not checked.

    Raises:
        ManifestError: The manifest is invalid, or all of the sample are missing.
    """
    if experiment.data.manifest is not None:
        listed = resolve_manifest(experiment.data, cache=cache)
        check_videos(experiment, listed, {"all": np.arange(len(listed))})
