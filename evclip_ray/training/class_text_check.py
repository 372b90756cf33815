"""Check of whether class texts fit the text context of CLIP, before any video is decoded."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from evclip_ray.class_names import split_words
from evclip_ray.config import ConfigError
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.batch import Frozen
from evclip_ray.models.clip import tokenizer_of
from evclip_ray.models.setting_types import GAP
from evclip_ray.training.build import build_method, load_backbone, load_encoder, zero_shot_of
from evclip_ray.training.experiment import ExperimentConfig

TEXT_SETTINGS = ("template", "num_vectors", "descriptions")
"""Settings of methods that decide how long a class text is."""

# Start, end, and the mark that some tokenizers put in front of the first word.
_EXTRA_TOKENS = 3


def check_class_texts(experiments: Iterable[ExperimentConfig], classes: Sequence[str]) -> None:
    """Check that the texts of all classes fit, with the learned vectors of a method.

    Zero-shot CLIP is scored with every run, so its texts are checked too.

    Args:
        experiments: Experiments on the same classes.
        classes: Labels.

    Raises:
        ConfigError: A text is too long, or contains a word that the tokenizer does not know. The message has
            the class, the number of tokens and the limit.
    """
    checked: set[tuple[str, str]] = set()
    for given in experiments:
        for experiment in (given, zero_shot_of(given)):
            key = (experiment.backbone.name, repr(experiment.method))
            if key not in checked:
                checked.add(key)
                _check(experiment, classes)


def _check(experiment: ExperimentConfig, classes: Sequence[str]) -> None:
    if _surely_fits(experiment, [split_words(label) for label in classes]):
        return
    name, backbone = experiment.method.name, experiment.backbone.name
    try:
        # Building the method tokenises its texts, whatever they are. Without weights this takes a second.
        meta = torch.device("meta")
        frozen = Frozen(load_backbone(experiment.backbone, meta), load_encoder(experiment.method, meta))
        build_method(experiment, classes, device=meta, frozen=frozen)
    except ValueError as error:
        raise ConfigError(f"class texts of method {name} on backbone {backbone}: {error}") from None


def _surely_fits(experiment: ExperimentConfig, names: Sequence[str]) -> bool:
    method, backbone = experiment.method, find_backbone(experiment.backbone.name)
    if getattr(method, "descriptions", None) is not None:
        return False
    vectors = getattr(method, "num_vectors", 0)
    texts = [text for name in names for text in _texts(getattr(method, "template", GAP), name)]
    # A token has at least one byte of its text. Most lists pass here, without loading a tokenizer.
    longest = max(len(text.encode()) for text in texts)
    if not backbone.is_world and longest + _EXTRA_TOKENS + vectors <= backbone.context_length:
        return True
    try:
        tokens = tokenizer_of(backbone)(texts, context_length=backbone.context_length)
    except ConfigError:
        # An unknown word of the small world.
        return False
    # The last column that any text reaches, if all others have the tokenizer's padding.
    padding = tokenizer_of(backbone)(["."], context_length=backbone.context_length)[0, -1]
    used = (tokens != padding).sum(1).max().item()
    return int(used) + vectors < backbone.context_length


def _texts(template: str, name: str) -> Iterator[str]:
    yield template.replace(GAP, name)
    # The text of methods with learned vectors.
    yield f"{name}."
