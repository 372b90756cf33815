"""Model card of the small towers as a page of the documentation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evclip_ray.world.pretraining.corpus import action_names

_QUESTIONS = {
    "accuracy": "class",
    "pose accuracy": "class, where a class and its reverse count as one",
    "action": "class",
    "motion": "motion",
    "part": "part of the body",
}


def render(card: Mapping[str, Any]) -> str:
    """Return the page of a model card in Markdown.

    Args:
        card: Content of `card.json`.
    """
    networks, recipe = card["networks"], card["recipe"]
    clips = [name for name in networks if recipe["trainings"][name]["corpus"] == "stills"]
    videos = [name for name in networks if name not in clips]
    lines = [
        "# Model card of the small towers",
        "",
        "<!-- Written by `python -m evclip_ray.world.pretraining.install`; do not edit. -->",
        "",
        "Small CLIPs (`world-xs`, `world-s`, `world-m`) and video networks (`swin3d_world`, "
        "`swin3d_world_masks`), trained from scratch on drawn scenes. They know the small world and nothing "
        "else: their accuracy says how a method works, and nothing about real videos. Licence: MIT, like the "
        "code.",
        "",
        f"Made on {card['date']} by `python -m evclip_ray.world.pretrain`. All files together have "
        f"{card['bytes']:,} bytes. The scores were computed from these files, in float32 on a CPU, on scenes "
        "that no pretraining saw. The brackets are 95 % intervals over videos (Wilson).",
        "",
        "## Zero-shot accuracy of the CLIPs",
        "",
        f'Template "A video of {{}}.", mean over the 8 frames. Held-out: {len(action_names(True))} actions '
        f"that neither pretraining saw, chance {1 / len(action_names(True)):.3f}. Seen: "
        f"{len(action_names(False))} actions, chance {1 / len(action_names(False)):.3f}. No still tells an "
        "action from its reverse (raising and lowering), so a zero-shot CLIP can only guess between the two.",
        "",
        *_scores(networks, clips),
        "",
        "## Accuracy of the video networks",
        "",
        "The classifiers of the pretraining, on the mean of the last map. They are in the files, but the "
        "product does not use them. The held-out classes were never trained; there, motion and part count.",
        "",
        *_scores(networks, videos),
        "",
        "## Training",
        "",
        *_table(
            ("network", "parameters", "samples", "batch", "learning rate", "seconds", "on"),
            [_training(name, networks[name], recipe["trainings"][name]) for name in networks],
        ),
        "",
        _masks(videos, recipe),
        "",
        "Corpora: "
        + "; ".join(
            f"{corpus['count']:,} {name} of {', '.join(corpus['domains'])} scenes{_dials(corpus)}"
            for name, corpus in recipe["corpora"].items()
        )
        + ". The CLIPs see nothing dark, cluttered or egocentric. Never shown: "
        + ", ".join(action_names(True))
        + ".",
        "",
        *(f"- {note}" for note in card["notes"]),
        "",
        "## Digests (SHA-256)",
        "",
        *_table(("file", "digest"), [(f"`{name}`", f"`{value}`") for name, value in card["files"].items()]),
        "",
    ]
    return "\n".join(lines)


def _scores(networks: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    if not names:
        return ["No such network is shipped."]
    scores = {name: networks[name]["scores"] for name in names}
    first = scores[names[0]]
    rows = [
        (
            held.replace(" ", ", ", 1),
            _QUESTIONS[question],
            *("{:.3f} ({:.3f} to {:.3f})".format(*scores[name][held][question]) for name in names),
        )
        for held in first
        for question in first[held]
        if question != "pose accuracy" or held.startswith("seen")
    ]
    return _table(("scenes", "question", *(f"`{name}`" for name in names)), rows)


def _training(name: str, network: Mapping[str, Any], training: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        f"`{name}`",
        f"{network['parameters']:,}",
        f"{training['samples']:,}",
        training["batch"],
        training["lr"],
        network["seconds"],
        network["device"],
    )


def _dials(corpus: Mapping[str, Any]) -> str:
    low, high = corpus["dials"]
    if len(corpus["domains"]) == 1:
        return ""
    return f" with dials of {low:g}" if low == high else f" with dials from {low:g} to {high:g}"


def _masks(videos: Sequence[str], recipe: Mapping[str, Any]) -> str:
    with_masks = [name for name in videos if recipe["trainings"][name]["mask_weight"]]
    if not with_masks:
        return "No network was trained with true masks."
    names = ", ".join(with_masks)
    return f"Trained with the true masks of the acting figure: {names}. No other network saw them."


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
