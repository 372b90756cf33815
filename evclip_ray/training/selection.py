"""Protocol and selection of an experiment: videos that train, select and test."""

from pathlib import Path
from typing import Any

from evclip_ray.data.importers.class_names import read_class_names
from evclip_ray.data.manifest import protocols
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.formatting import counted
from evclip_ray.training.experiment import DataConfig, Selection


def find_protocol(
    data: DataConfig,
    manifest: Manifest,
    *,
    with_shots: bool = True,
    recorded: RowRecord | None = None,
    legacy: bool = False,
) -> protocols.Protocol:
    """Return the videos that train, select and test under the settings of a data section.

    Args:
        data: Data section of an experiment.
        manifest: List of videos.
        with_shots: Whether to draw `data.shots` videos per class. A manifest without training videos
            cannot be drawn from.
        recorded: Earlier record, whose videos keep their splits.
        legacy: Whether videos are chosen as by versions that recorded no rows: splits are drawn in another
            way, and all validation videos select.
    """
    classes = find_classes(data.classes, manifest)
    selection = find_selection(data, manifest, recorded=recorded, legacy=legacy)
    shares: dict[str, Any] = {
        "val_fraction": data.val_fraction,
        "test_fraction": data.test_fraction,
    }
    if recorded is not None:
        shares["recorded"] = recorded.assignment()
    if legacy:
        shares["legacy"] = True
    if selection == "last_epoch":
        shares["hold_out_val"] = False
    seed, nested = data.split_seed, data.nested_shots
    if data.shots is None or not with_shots:
        protocol = protocols.closed_set(manifest, classes=classes, seed=seed, **shares)
    else:
        protocol = protocols.few_shot(
            manifest, shots=data.shots, nested=nested, classes=classes, seed=seed, **shares
        )
    val_shots = data.val_shots or data.shots
    if selection == "kshot_validation" and val_shots is not None:
        return protocols.with_val_shots(protocol, shots=val_shots, seed=seed, nested=nested)
    return protocol


def find_selection(
    data: DataConfig, manifest: Manifest, *, recorded: RowRecord | None = None, legacy: bool = False
) -> Selection:
    """Return how the checkpoint of a run is chosen: as set, or as the data ask for.

    Args:
        data: Data section of an experiment.
        manifest: List of videos, as it was read.
        recorded: See `find_protocol`. Whether it has validation videos takes the place of what the list asks
            for, because one more video would change that.
        legacy: See `find_protocol`.
    """
    if legacy:
        return "validation"
    if data.selection is not None:
        return data.selection
    if data.folds is not None:
        return "last_epoch"
    if data.val_shots is not None:
        return "kshot_validation"
    if recorded is not None and recorded.legacy:
        return "validation"
    if recorded is not None:
        trains_on_all = not recorded.has_validation
    else:
        shots = protocols.published_shots(manifest)
        # All K shots of a published list are requested, whether or not K is also set.
        trains_on_all = shots is not None and data.shots in (None, shots)
    if trains_on_all:
        return "last_epoch"
    return "validation" if data.shots is None else "kshot_validation"


def selection_reason(data: DataConfig, listed: Manifest, selection: Selection) -> str:
    """Return the reason of a selection that was not set; empty for the usual one."""
    if selection == "kshot_validation":
        return "data.val_shots is set" if data.val_shots else "data.shots is set"
    if selection == "last_epoch":
        shots = protocols.published_shots(listed)
        if data.folds or shots is None:
            return "data.folds is set" if data.folds else "the recorded videos have no validation split"
        return f"the list has {counted(shots, 'training video')} of each class"
    return ""


def find_classes(choice: str | None, manifest: Manifest) -> tuple[str, ...] | None:
    """Return the class names that `data.classes` chooses, or None for all of them.

    Args:
        choice: 'base', 'novel', a file of class names, or None.
        manifest: List of videos.
    """
    if choice is None:
        return None
    if choice not in ("base", "novel"):
        return read_class_names(Path(choice).expanduser())
    # "novel" is the complement of "base", so that the two never overlap.
    base = protocols.base_classes(manifest)
    return base if choice == "base" else tuple(name for name in manifest.classes if name not in base)
