"""Labels that CLIP reads as one text: found before anything is decoded, and refused or merged.

Two labels are the same if their tokens are the same: "Kick" and "kick", or "café" with a composed and with a
decomposed accent. As two classes they would have identical logits.
"""

import collections
import dataclasses
import html
import logging
import unicodedata
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.class_names import normalized_name, split_words
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.formatting import counted

log = logging.getLogger(__name__)

_SHOWN = 5


def find_same_labels(labels: Iterable[str], backbone: str = "ViT-B-16") -> list[tuple[str, ...]]:
    """Return the groups of labels with the same tokens, each in the order of `_preferred`.

    No weights are needed. A tokenizer is loaded only if labels differ in nothing but case, signs and
    Unicode forms.

    Args:
        labels: Labels, each once.
        backbone: Name of the backbone whose tokenizer compares them. The default has CLIP's tokenizer.
    """
    candidates = _grouped({label: _letters(label) for label in labels})
    groups: list[tuple[str, ...]] = []
    if not candidates:
        return groups
    # They load open_clip and torch, which most lists do not need.
    from evclip_ray.models.backbones import find_backbone
    from evclip_ray.models.clip import tokenizer_of

    for alike in candidates:
        # Characters without width have tokens of their own, but nobody sees them.
        texts = [split_words(_visible(label)) for label in alike]
        length = max(len(text.encode()) for text in texts) + 3
        tokens = tokenizer_of(find_backbone(backbone))(texts, context_length=length).tolist()
        groups += _grouped({label: str(row) for label, row in zip(alike, tokens, strict=True)})
    return groups


def resolve_same_labels(
    manifest: Manifest, *, merge: bool, backbone: str = "ViT-B-16", allow: bool = False
) -> Manifest:
    """Return the manifest if no two labels are the same; else merge them or raise an error.

    Args:
        manifest: List of videos.
        merge: Whether to give the videos of such labels one label, the shortest or the one in lower case.
        backbone: Name of the backbone whose tokenizer compares the labels.
        allow: Log a warning instead of an error, for studies and runs that began with such classes.

    Raises:
        ManifestError: There are such labels. The message has them with their numbers of videos.
    """
    groups = find_same_labels(manifest.classes, backbone)
    if not groups:
        return manifest
    if merge:
        names = {label: group[0] for group in groups for label in group}
        labels = [names.get(label, label) for label in manifest.column("label")]
        position = manifest.table.column_names.index("label")
        log.warning("%s: merged %s", manifest.source, describe_same_labels(manifest, groups))
        return dataclasses.replace(
            manifest, table=manifest.table.set_column(position, "label", pa.array(labels, pa.string()))
        )
    summary = (
        f"{manifest.source}: CLIP reads labels as the same text and cannot tell them apart:"
        f" {describe_same_labels(manifest, groups)}"
    )
    if not allow:
        raise ManifestError(
            f"{summary}. Rename them, or give them one label with --set data.merge_labels=true"
        )
    log.warning("%s", summary)
    return manifest


def describe_same_labels(manifest: Manifest, groups: list[tuple[str, ...]]) -> str:
    """Return the groups with the number of videos of each label. Characters without width are escaped."""
    counts = {
        row["values"].as_py(): row["counts"].as_py() for row in pc.value_counts(manifest.table["label"])
    }
    texts = [
        " = ".join(f"{_shown(label)} ({counted(counts[label], 'video')})" for label in group)
        for group in groups
    ]
    rest = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + rest


def _shown(label: str) -> str:
    # `ascii` shows the difference between labels that look equal.
    return repr(label) if label == _visible(label) and label.isascii() else ascii(label)


def _letters(label: str) -> str:
    """Return a key that is equal for all labels whose tokens can be equal."""
    return normalized_name(unicodedata.normalize("NFKC", html.unescape(_visible(label))))


def _visible(label: str) -> str:
    return "".join(sign for sign in label if unicodedata.category(sign) != "Cf")


def _grouped(keys: dict[str, str]) -> list[tuple[str, ...]]:
    by_key: dict[str, list[str]] = collections.defaultdict(list)
    for label, key in keys.items():
        by_key[key].append(label)
    return [tuple(sorted(group, key=_preferred)) for group in by_key.values() if len(group) > 1]


def _preferred(label: str) -> tuple[int, str]:
    # Short ones first, because invisible characters and second blanks lengthen a label, then lower case.
    return len(label), label.swapcase()
