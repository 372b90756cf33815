"""Whether the trials of a folder whose ledger is lost belong to a study, so that it can be written again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import LEDGER, ArtifactError, digest
from evclip_ray.config import flatten
from evclip_ray.formatting import counted
from evclip_ray.objective import OBJECTIVE
from evclip_ray.training.checkpoint import CONFIG
from evclip_ray.tuning.trial_folder import read_fields, warn_once


def check_trials(root: Path, identity: Mapping[str, Any]) -> None:
    """Check that the trials of a folder without a readable ledger were run by a study.

    Trials of the present version have the key of their study. Those of earlier versions must have points and
    settings that the study could have drawn; its seed, sampler and scheduler cannot be checked then.

    Args:
        root: Folder of the study.
        identity: Identity of the study.

    Raises:
        ArtifactError: A trial differs, or none can be compared.
    """
    restore = (
        f"Restore {LEDGER} from a copy, give the settings that the study began with, or choose another --out."
    )
    compared = 0
    for name, differences in _differences(root, identity):
        compared += 1
        if differences:
            raise ArtifactError(
                f"{root / LEDGER}: is lost, and {name} is of a study with other settings "
                f"({', '.join(differences)}). {restore}"
            )
    if not compared:
        raise ArtifactError(
            f"{root / LEDGER}: is lost, and no trial can be compared with these settings. {restore}"
        )
    warn_once(
        f"{root / LEDGER}: is lost; it is written again, because all "
        f"{counted(compared, 'trial', 'agrees', 'agree')} with these "
        "settings"
    )


def written_objectives(root: Path) -> set[str]:
    """Return the objectives of the study that the trials name."""
    points = (read_fields(folder) for folder in sorted(root.glob("trials/trial-*")))
    return {point["study"][OBJECTIVE] for point in points if "study" in point}


def _differences(root: Path, identity: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each trial that can be compared, and the settings in which it differs."""
    fixed, searched = flatten(identity["fixed"]), identity["search"].keys()
    for folder in sorted((root / "trials").glob("trial-*")):
        point = read_fields(folder)
        if "study" in point:
            yield folder.name, [] if point["study"]["key"] == digest(identity) else ["its key"]
            continue
        records = (read_fields(path.parent, CONFIG) for path in sorted(folder.glob(f"*/{CONFIG}")))
        record = next(filter(None, records), {})
        if "overrides" not in point or "experiment" not in record:
            continue
        ran = flatten(record["experiment"])
        overrides = point["overrides"]
        unknown = sorted(overrides.keys() - searched - {"seed"})
        other = sorted(
            path for path in (fixed.keys() & ran.keys()) - overrides.keys() if fixed[path] != ran[path]
        )
        yield folder.name, unknown + other
