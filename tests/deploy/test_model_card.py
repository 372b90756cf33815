"""Model cards of checkpoints, and the licences of the weights behind them."""

import re

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from evclip_ray.artifacts import ArtifactError, file_digest, read_json, write_json, write_ledger
from evclip_ray.config import ConfigError
from evclip_ray.deploy.model_card import MARKER, model_card, write_model_card
from evclip_ray.models.weight_licences import weight_licences
from evclip_ray.training.per_video_scores import VideoScores


@pytest.fixture
def mine(checkpoint, tmp_path):
    """Return a checkpoint with validation scores and other weights than random ones in its record."""
    folder = tmp_path / "study" / "best"
    folder.mkdir(parents=True)
    for name in ("adapter.safetensors", "config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    change(folder, weights={"clip": "openai", "video_encoder": "kinetics400"}, selection="validation")
    right = np.array([True] * 6 + [False] * 2)
    VideoScores("x", right, np.ones(8, np.float32), np.arange(8) // 2).write(folder)
    return folder


def change(folder, **entries):
    write_json(folder / "config.json", read_json(folder / "config.json") | entries)


def front_matter(card):
    return yaml.safe_load(card.split("---")[1])


def add_evaluation(checkpoint, folder, *, split="test", **entries):
    experiment = read_json(checkpoint / "config.json")["experiment"]
    numbers = {
        "videos": 40,
        "groups": None,
        "top5": 1.0,
        "mean_class_accuracy": 0.6,
        "calibration_error": 0.1,
    }
    write_ledger(
        folder,
        "evaluation",
        inputs={
            "split": split,
            "protocol": "closed_set",
            "side": split,
            "experiment": experiment,
            "views": {},
        },
        counts={"videos": 40, "leaking_rows": 0},
        zero_shot={**numbers, "top1": 0.25, "top1_interval": [0.14, 0.4]},
        adapted={**numbers, "top1": 0.65, "top1_interval": [0.5, 0.78]},
        conditions={"precision": "float32", "device": "cpu"},
        openings=2,
        **{"adapter": file_digest(checkpoint / "adapter.safetensors"), **entries},
    )


def test_card_has_scores_with_intervals_and_conditions(mine):
    add_evaluation(mine, mine.with_name("best-test"))
    card = model_card(mine, address="hf://user/waving", data_name="UT-Interaction")
    assert re.search(
        r"\| validation \| 8 videos in 4 groups \| 0\.750 \(0\.\d+ to 0\.9\d\) \| not known", card
    )
    assert (
        "| test | 40 videos | 0.650 (0.50 to 0.78) | 0.250 (0.14 to 0.40) | 0.600 | 0.100 | float32, cpu |"
        in card
    )
    assert "opened 2 times" in card
    assert "chose the epoch" in card
    assert 'Recognizer.load("hf://user/waving")' in card
    for name in ("walk", "open_a_door", "Videos: UT-Interaction", "`method.prompts` | `both`"):
        assert name in card


def test_front_matter_is_that_of_hugging_face(mine):
    add_evaluation(mine, mine.with_name("best-test"))
    add_evaluation(mine, mine.with_name("best-val"), split="val")
    facts = front_matter(model_card(mine, licence="apache-2.0"))
    assert facts["license"] == "apache-2.0"
    assert facts["library_name"] == "evclip-ray"
    assert facts["pipeline_tag"] == "video-classification"
    (result,) = facts["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.65, "name": "top-1"}]


def test_choice_of_a_study_is_on_the_card(mine):
    names = "val_top1,val_top1_low,val_top1_high,corrected_top1,corrected_top1_low,corrected_top1_high"
    path = mine.parent / "leaderboard.csv"
    path.write_text(f"rank,{names},chosen_from,corrected_note\n1,0.75,0.4,0.9,0.7,0.3,0.9,9 trials,\n")
    change(mine, progress={"best_top1": 0.75})
    assert "best of 9 trials, optimistic: top-1 0.750" in model_card(mine)
    assert "corrected for the choice: top-1 0.700" in model_card(mine)
    path.write_text(f"rank,{names},chosen_from,corrected_note\n1,0.75,,,,,,9 trials,one class\n")
    assert "corrected for the choice: missing: one class" in model_card(mine)


def test_scores_of_other_tensors_are_not_shown(mine):
    add_evaluation(mine, mine.with_name("best-test"), adapter="0" * 16)
    assert "not evaluated on test videos" in model_card(mine)
    with pytest.raises(ArtifactError, match="must be a folder of"):
        model_card(mine, evaluations=[mine.with_name("best-test")])


def test_evaluation_elsewhere_is_shown_when_named(mine, tmp_path):
    add_evaluation(mine, tmp_path / "elsewhere")
    assert "0.650" not in model_card(mine)
    assert "0.650" in model_card(mine, evaluations=[tmp_path / "elsewhere"])


def test_random_weights_are_stated_first(checkpoint):
    card = model_card(checkpoint)
    assert card.index("RANDOM WEIGHTS in clip and video_encoder") < card.index("## Use")
    assert "none: random weights" in card
    assert "No scores are known" in card


def omnivore(folder):
    """Write a file with names of Omnivore's trunk."""
    save_file({"layers.0.blocks.0.norm1.weight": torch.zeros(1)}, folder / "omnivore.safetensors")
    return folder / "omnivore.safetensors"


@pytest.mark.parametrize("is_here", [True, False])
def test_omnivore_makes_the_checkpoint_noncommercial(mine, tmp_path, is_here):
    file = omnivore(tmp_path)
    config = read_json(mine / "config.json")
    config["experiment"]["method"]["video_encoder"]["weights"] = str(file)
    change(mine, **config | {"weights": {"clip": "openai", "video_encoder": f"file:{file_digest(file)}"}})
    if not is_here:
        file.unlink()
    card = model_card(mine)
    assert front_matter(card)["license"] == "cc-by-nc-4.0"
    assert "CC-BY-NC 4.0: no commercial use" in card
    assert "inherits this" in card
    assert str(tmp_path) not in card
    with pytest.raises(ConfigError, match="allows commercial use"):
        model_card(mine, licence="mit")
    assert front_matter(model_card(mine, licence="cc-by-nc-sa-4.0"))["license"] == "cc-by-nc-sa-4.0"


def test_file_with_names_of_torchvision_is_not_omnivore(tmp_path):
    file = tmp_path / "swin.safetensors"
    save_file({"features.0.0.norm1.weight": torch.zeros(1)}, file)
    experiment = {
        "backbone": {"name": "ViT-B-16"},
        "method": {"video_encoder": {"name": "swin3d_b", "weights": str(file)}},
    }
    weights = {"clip": "openai", "video_encoder": f"file:{file_digest(file)}"}
    clip, video = weight_licences(experiment, weights)
    assert clip.licence.startswith("MIT")
    assert clip.model_id == "timm/vit_base_patch16_clip_224.openai"
    assert not video.is_noncommercial


@pytest.mark.parametrize(
    ("name", "origin", "licence"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k", "publisher"),
        ("world-s", "world:00cd5a322e6478d2", "MIT, part of evclip-ray"),
        ("ViT-B-16", "file:0123456789abcdef (gelu)", "publisher of the file"),
        ("debug", "random", "none: random weights"),
    ],
)
def test_licence_of_each_kind_of_clip(name, origin, licence):
    (clip,) = weight_licences({"backbone": {"name": name}, "method": {}}, {"clip": origin})
    assert licence in clip.licence


def test_own_text_is_never_replaced(mine):
    path = write_model_card(mine)
    assert MARKER in path.read_text()
    path.write_text("my text")
    write_model_card(mine)
    assert path.read_text() == "my text"


def test_card_of_a_download_is_never_replaced(mine, tmp_path):
    from evclip_ray.deploy.hub import push

    push(mine, tmp_path / "shared", data_name="UT-Interaction")
    write_model_card(tmp_path / "shared")
    assert "UT-Interaction" in (tmp_path / "shared" / "README.md").read_text()


def test_licence_must_be_an_identifier(mine):
    with pytest.raises(ConfigError, match="must be an identifier"):
        model_card(mine, licence="My licence!")
