"""Labels with one text for CLIP: refused with their counts, or merged."""

import logging

import pytest

from evclip_ray.data.manifest.manifest import ManifestError, read_manifest
from evclip_ray.training.same_labels import find_same_labels, resolve_same_labels
from evclip_ray.training.video_plan import plan_videos


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (("hug", "kick"), []),
        (("Kick", "kick", "hug"), [("kick", "Kick")]),
        (("shake hands", "shake_hands", "Shake  Hands"), [("shake hands", "shake_hands", "Shake  Hands")]),
        (("pushUps", "push ups"), [("pushUps", "push ups")]),
        # Signs are tokens.
        (("push-ups", "push ups"), []),
        (("kick", "kic\u200bk"), [("kick", "kic\u200bk")]),
        (("cafe\u0301", "caf\u00e9"), [("caf\u00e9", "cafe\u0301")]),
        (("1", "01"), []),
    ],
)
def test_labels_with_equal_tokens_are_the_same(labels, groups):
    assert find_same_labels(labels) == groups


def test_small_world_ignores_signs():
    assert find_same_labels(["raising an arm", "Raising an-arm"], "world-xs") == [
        ("raising an arm", "Raising an-arm")
    ]


def test_different_letters_need_no_tokenizer(monkeypatch):
    def unavailable(*_):
        raise AssertionError("no tokenizer is needed")

    monkeypatch.setattr("evclip_ray.models.clip.tokenizer_of", unavailable)
    assert find_same_labels(["hug", "kick", "push-ups", "pull ups"]) == []


@pytest.fixture
def folder(tmp_path):
    for label in ("Kick", "kick", "hug"):
        for k in range(10 if label == "hug" else 5):
            (tmp_path / "videos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / label / f"{k}.mp4").touch()
    return tmp_path / "videos"


def test_same_labels_are_refused_with_their_counts(folder):
    with pytest.raises(
        ManifestError, match=r"'kick' \(5 videos\) = 'Kick' \(5 videos\).*data.merge_labels=true"
    ):
        resolve_same_labels(read_manifest(folder), merge=False)


def test_plan_of_a_training_refuses_or_merges(folder, make_experiment, tmp_path):
    with pytest.raises(ManifestError, match="cannot tell them apart"):
        plan_videos(make_experiment(data__manifest=str(folder)), cache=tmp_path)
    merged = make_experiment(data__manifest=str(folder), data__merge_labels=True)
    assert plan_videos(merged, cache=tmp_path).classes == ("hug", "kick")


def test_begun_run_with_same_labels_goes_on(folder, make_experiment, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        plan = plan_videos(make_experiment(data__manifest=str(folder)), cache=tmp_path, legacy=True)
    assert plan.classes == ("Kick", "hug", "kick")
    assert "cannot tell them apart" in caplog.text


def test_default_settings_leave_no_trace_in_dumps(make_experiment):
    dumped = make_experiment().model_dump(mode="json")["data"]
    assert not {"merge_labels", "path_column", "label_column", "split_column", "group_column"} & set(dumped)
    chosen = make_experiment(data__merge_labels=True, data__label_column="kind")
    assert chosen.data.columns == {"label": "kind"}
    assert chosen.model_dump(mode="json")["data"]["merge_labels"] is True
