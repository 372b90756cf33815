"""Model card of a checkpoint: `README.md` with the front matter that Hugging Face reads.

It has the method, the data and the protocol, scores with intervals, the classes, and the licence of every
weight file. It names no path of this machine.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from evclip_ray.artifacts import write_text
from evclip_ray.config import ConfigError, flatten
from evclip_ray.deploy.card_facts import Score, evaluations_of, study_lines, validation_score, video_counts
from evclip_ray.deploy.digests import CARD, DIGESTS, digest_of
from evclip_ray.deploy.shared_copy import NOT_SHARED, without_places
from evclip_ray.formatting import counted, sample_size, shell, with_interval
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.models.weight_licences import NONCOMMERCIAL, WeightLicence, weight_licences
from evclip_ray.records import random_weights_warning
from evclip_ray.training.checkpoint import ADAPTER, read_record

MARKER = "<!-- Written by evclip-ray. Remove this line to keep your own text: it is then never replaced. -->"
_PLACEHOLDER = "FOLDER_OR_URI"
_MOST_CLASSES = 400
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_ROLES = {"train": "trained", "val": "selected"}


def write_model_card(
    checkpoint: Path,
    *,
    address: str | None = None,
    licence: str | None = None,
    data_name: str | None = None,
    evaluations: Sequence[Path] = (),
) -> Path:
    """Write `README.md` into the folder of a checkpoint and return its path.

    A card without the line `MARKER` is a user's own text and stays as it is.

    Args:
        checkpoint: Folder of the checkpoint.
        address: See `model_card`.
        licence: See `model_card`.
        data_name: See `model_card`.
        evaluations: See `model_card`.

    Raises:
        ArtifactError: The folder is not a checkpoint.
        ConfigError: See `model_card`.
    """
    path = checkpoint / CARD
    if own_card(checkpoint) is None:
        text = model_card(
            checkpoint, address=address, licence=licence, data_name=data_name, evaluations=evaluations
        )
        write_text(path, text)
    return path


def own_card(checkpoint: Path) -> str | None:
    """Return the card in a checkpoint that is not replaced; None if there is none, or one to write again.

    It is the user's own text, or that of a downloaded checkpoint, whose scores are known to its owner alone.
    """
    path = checkpoint / CARD
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return None if MARKER in text and not (checkpoint / DIGESTS).is_file() else text


def model_card(
    checkpoint: Path,
    *,
    address: str | None = None,
    licence: str | None = None,
    data_name: str | None = None,
    evaluations: Sequence[Path] = (),
) -> str:
    """Return the text of the model card of a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.
        address: Address that `Recognizer.load` loads it from; None is a placeholder.
        licence: Identifier of its licence on Hugging Face, such as "apache-2.0". None states none, except the
            non-commercial one that it inherits.
        data_name: Name of the videos; a path of the training is never written.
        evaluations: Folders of evaluations that are not next to the checkpoint.

    Raises:
        ArtifactError: The folder is not a checkpoint, or an evaluation is not one of it.
        ConfigError: The licence is no identifier, or contradicts that of the weights.
    """
    recorded = read_record(checkpoint)
    record, _ = without_places(recorded)
    # The file of the weights is looked at, and evaluations are compared by their list of videos.
    licences = weight_licences(recorded["experiment"], recorded["weights"])
    scores = evaluations_of(checkpoint, recorded, evaluations)
    validation = validation_score(checkpoint, recorded)
    method, backbone = record["experiment"]["method"]["name"], record["experiment"]["backbone"]["name"]
    title = f"{method} on {backbone}, {counted(len(record['classes']), 'class').replace('classs', 'classes')}"
    parts = [
        _front_matter(title, record, licences, _licence(licence, licences), scores, data_name),
        MARKER,
        f"# {title}",
        _summary(record, licences),
        _use(address or _PLACEHOLDER, record),
        _results(checkpoint, record, validation, scores),
        _data(checkpoint, record, data_name),
        _classes(record["classes"]),
        _settings(record),
        _licences(licences, method),
        _files(checkpoint, record),
    ]
    return "\n\n".join(parts) + "\n"


def _licence(given: str | None, licences: Sequence[WeightLicence]) -> str | None:
    inherited = any(each.is_noncommercial for each in licences)
    if given is None:
        return NONCOMMERCIAL if inherited else None
    if not _LICENCE.fullmatch(given):
        raise ConfigError(f"--license {given}: must be an identifier of Hugging Face, such as apache-2.0")
    if inherited and "-nc" not in given:
        raise ConfigError(
            f"--license {given}: allows commercial use, but this checkpoint was trained on weights that are "
            f"CC-BY-NC 4.0 (Omnivore), which it inherits. Leave the option out, or give {NONCOMMERCIAL}. If "
            "the weights are not Omnivore's, run the command where their file is, so that it can be read."
        )
    return given


def _front_matter(
    title: str,
    record: Mapping[str, Any],
    licences: Sequence[WeightLicence],
    licence: str | None,
    scores: Sequence[Score],
    data_name: str | None,
) -> str:
    method = record["experiment"]["method"]["name"]
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="own-videos",
            dataset_name=f"{data_name or 'own videos'} ({score.name})",
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(score.adapted["top1"], 4),
        )
        for score in scores
        if score.is_test
    ]
    model_ids = [each.model_id for each in licences if each.model_id]
    # Entries that are None are left out. A model with results needs a name.
    data = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "not-stated",
        library_name="evclip-ray",
        pipeline_tag="video-classification",
        tags=["evclip-ray", "video-classification", "action-recognition", "clip", method],
        model_name=title if results else None,
        eval_results=results or None,
        base_model=model_ids[0] if model_ids else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _summary(record: Mapping[str, Any], licences: Sequence[WeightLicence]) -> str:
    lines = [
        f"Video recogniser of evclip-ray: a frozen CLIP and "
        f"{counted(record['num_trainable'], 'trained parameter')} "
        f"of the method `{record['experiment']['method']['name']}`. The frozen networks are not part of it."
    ]
    if warning := random_weights_warning(record["weights"]):
        lines.append(f"> **{warning}** Do not use this checkpoint for anything but tests.")
    if any(each.is_noncommercial for each in licences):
        lines.append(
            "> **Non-commercial.** It was trained on weights that are CC-BY-NC 4.0 and inherits this: no "
            "commercial use."
        )
    return "\n\n".join(lines)


def _use(address: str, record: Mapping[str, Any]) -> str:
    files = {
        "backbone.pretrained": record["weights"]["clip"],
        "method.video_encoder.weights": record["weights"].get("video_encoder", ""),
    }
    needed = [f"`{name}` ({origin})" for name, origin in files.items() if origin.startswith("file:")]
    lines = [
        "## Use",
        "```python\n"
        "from evclip_ray import Recognizer\n"
        f'recognizer = Recognizer.load("{address}")\n'
        'print(recognizer.predict("my.mp4"))\n'
        "```",
        f"On the command line: `{shell('evclip-ray', 'predict', address, 'my.mp4')}`. The tensors are a "
        "safetensors file: nothing is unpickled.",
    ]
    if needed:
        lines.append(
            f"The frozen weights are local files, which you have to give: {', '.join(needed)}. Their digests "
            "are checked. In Python: `Recognizer.load(..., overrides={NAME: FILE})`."
        )
    return "\n\n".join(lines)


def _results(
    checkpoint: Path, record: Mapping[str, Any], validation: Score | None, evaluations: Sequence[Score]
) -> str:
    lines = ["## Results"]
    scores = [*([validation] if validation else []), *evaluations]
    if not scores:
        return "## Results\n\nNo scores are known: no validation videos, and no evaluation."
    rows = [
        [
            score.name,
            sample_size(score.videos, score.groups),
            _top1(score.adapted),
            _top1(score.zero_shot) if score.zero_shot else "not known",
            _of(score.adapted, "mean_class_accuracy"),
            _of(score.adapted, "calibration_error"),
            ", ".join(score.conditions.values()) or "not known",
        ]
        for score in scores
    ]
    header = ["videos of", "number", "top-1", "zero-shot CLIP", "mean class accuracy", "calibration error"]
    lines.append(_table([*header, "computed in"], rows))
    lines.append("Brackets are 95 % intervals over videos, or over groups of videos that belong together.")
    lines.append("\n".join(f"- {score.name}: {score.note}." for score in evaluations))
    if validation:
        lines.append(_selection_note(record))
    lines.append("\n".join(f"- {line}." for line in study_lines(checkpoint, record)))
    if not any(score.is_test for score in evaluations):
        lines.append("The checkpoint was not evaluated on test videos.")
    calibration = Calibration.read(checkpoint)
    if calibration is not None:
        lines.append(_calibration(calibration))
    return "\n\n".join(line for line in lines if line)


def _selection_note(record: Mapping[str, Any]) -> str:
    if record.get("selection") == "last_epoch":
        return "The last epoch was kept; the validation videos did not choose it."
    return (
        "The validation videos chose the epoch, and in a study also the settings, so that their score is "
        "optimistic. Test videos chose nothing."
    )


def _calibration(calibration: Calibration) -> str:
    facts = calibration.validation
    text = f"Logits are divided by a temperature of {calibration.temperature:.3g}"
    if facts is not None:
        before, after = facts.calibration_error
        text += (
            f", fitted on {counted(facts.num_videos, 'validation video')}: calibration error {before:.3f} "
            f"before, {after:.3f} after"
        )
    if calibration.unknown_below is not None:
        text += f". A video whose best probability is below {calibration.unknown_below:.3g} is 'unknown'"
    return f"{text}."


def _data(checkpoint: Path, record: Mapping[str, Any], data_name: str | None) -> str:
    data = record["experiment"]["data"]
    world = data.get("world")
    name = data_name or (f"the small drawn world, domain {world['domain']}" if world else "own videos")
    lines = ["## Data and protocol", f"Videos: {name}."]
    for use, (videos, groups) in video_counts(checkpoint).items():
        lines.append(f"- {_ROLES[use]} by {sample_size(videos, groups if groups < videos else None)}")
    marked = {"shots": "training videos per class", "classes": "classes", "split_seed": "seed of the splits"}
    lines += [f"- {text}: {data[key]}" for key, text in marked.items() if data.get(key) is not None]
    lines.append(f"- selection of the epoch: {record.get('selection', 'not known')}")
    if data.get("allow_leaks"):
        lines.append("- LEAKS between the splits were allowed: the numbers are too high")
    if "source" in record:
        lines.append(f"- imported from a published file, SHA-256 {record['source']['sha256']}")
    return "\n".join([lines[0], "", lines[1], "", *lines[2:]])


def _classes(classes: Sequence[str]) -> str:
    shown = "\n".join(f"{number}. {name}" for number, name in enumerate(classes[:_MOST_CLASSES], start=1))
    rest = len(classes) - _MOST_CLASSES
    more = f"\n\nand {rest:,} more, in `config.json`." if rest > 0 else ""
    return f"## Classes\n\n{shown}{more}"


def _settings(record: Mapping[str, Any]) -> str:
    experiment = record["experiment"]
    shown = {name: experiment[name] for name in ("backbone", "method", "view", "optim", "seed", "precision")}
    rows = [
        [f"`{path}`", f"`{value}`"]
        for path, value in flatten(shown).items()
        if value is not None and value != NOT_SHARED
    ]
    return f"## Settings\n\n{_table(['setting', 'value'], rows)}"


def _licences(licences: Sequence[WeightLicence], method: str) -> str:
    rows = [[each.part, each.network, each.origin, each.licence] for each in licences]
    lines = [
        "## Licences of the weights",
        _table(["network", "name", "origin", "licence"], rows),
        "The checkpoint was trained through these networks. Their terms apply to whoever uses it with them.",
    ]
    if method == "fine_tune":
        lines.append("It contains CLIP's fine-tuned weights, so that the licence of CLIP applies to it.")
    return "\n\n".join(lines)


def _files(checkpoint: Path, record: Mapping[str, Any]) -> str:
    provenance = record.get("provenance", {})
    versions = provenance.get("versions", {})
    written = ", ".join(f"{name} {versions[name]}" for name in ("evclip-ray", "torch") if name in versions)
    revision = f", revision {provenance['git']}" if provenance.get("git") else ""
    return (
        f"## Versions and digests\n\nTrained with {written or 'an unknown version'}{revision}.\n\n"
        f"- `{ADAPTER}`: SHA-256 `{digest_of(checkpoint / ADAPTER).sha256}`"
    )


def _top1(numbers: Mapping[str, Any]) -> str:
    low, high = numbers["top1_interval"]
    return with_interval(numbers["top1"], low, high)


def _of(numbers: Mapping[str, Any], name: str) -> str:
    return f"{numbers[name]:.3f}" if isinstance(numbers.get(name), float) else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A bar in a name would begin another cell.
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
