import csv
import json

import numpy as np
import pytest
import torch
from synthetic_videos import write_synthetic

from evclip_ray.artifacts import ArtifactError, write_ledger
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.domain_shift.compare import compare, explain, measure, set_names, write
from evclip_ray.models.batch import Frozen
from evclip_ray.models.clip import load_clip
from evclip_ray.models.methods.zero_shot import ZeroShotConfig

CLASSES = (
    "standing still",
    "sliding sideways",
    "jumping up and down",
    "spinning around",
    "growing bigger",
    "flickering in place",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, local_ray):
    folder = tmp_path_factory.mktemp("shift")
    manifest = read_manifest(write_synthetic(folder / "videos", videos_per_class=12, size=64, num_frames=12))
    view = ViewConfig(num_frames=4, height=64, width=64, sampling="window", window_frames=8)
    return prepare_shards(manifest, view=view, folder=folder / "shards")


@pytest.fixture(scope="module")
def method():
    clip = load_clip("debug", "random")
    return ZeroShotConfig().build(Frozen(clip), class_names=CLASSES, num_frames=4, image_size=64)


class Changed:
    """Shards whose frames are changed on reading."""

    def __init__(self, shards, change):
        self._shards, self._change = shards, change

    def __getattr__(self, name):
        return getattr(self._shards, name)

    def __len__(self):
        return len(self._shards)

    def frames(self, positions):
        return self._change(self._shards.frames(positions))


def measured(name, shards, method, **extra):
    labels = np.array([CLASSES.index(label) for label in shards.labels])
    return measure(name, shards, labels, CLASSES, method, device=torch.device("cpu"), batch_size=8, **extra)


@pytest.fixture(scope="module")
def plain(shards, method):
    return measured("plain", shards, method)


def darkened(frames):
    return (frames * 0.4).astype(np.uint8)


def panned(frames):
    """Return frames of a camera that moves two pixels per frame. The border is mirrored."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 0), (0, 8), (0, 0)), mode="reflect")
    views = [padded[:, step, :, 2 * step : 2 * step + frames.shape[3]] for step in range(frames.shape[1])]
    return np.stack(views, axis=1)


def deltas(a, b):
    return {row["factor"]: row for row in compare([a, b])["visual"]}


def test_identical_sets_have_no_shift(plain):
    tables = compare([plain, plain])
    for row in tables["visual"]:
        assert row["delta"] == 0
        assert row["low"] <= 0 <= row["high"]
    features = {row["distance"]: row for row in tables["features"]}
    assert features["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert features["mmd2_linear"]["value"] == pytest.approx(0, abs=1e-9)
    assert features["classifier_error"]["value"] == pytest.approx(0.5)
    assert tables["labels"][0]["nearest_a_in_b"] == pytest.approx(1)
    assert all(row["class"] == row["nearest"] for row in tables["nearest"])


def test_darkened_copy_shifts_luminance_most(plain, shards, method):
    by_factor = deltas(plain, measured("dark", Changed(shards, darkened), method))
    assert by_factor["luminance"]["high"] < -0.5
    for name in by_factor.keys() - {"luminance"}:
        assert abs(by_factor[name]["delta"]) < 0.2, (name, by_factor[name])


def test_pan_shifts_camera_motion_only(plain, shards, method):
    by_factor = deltas(plain, measured("panned", Changed(shards, panned), method))
    assert by_factor["camera_motion"]["low"] > 0.9
    assert by_factor["camera_motion"]["median_b"] == pytest.approx(100 * 2 / 64, rel=0.1)
    assert abs(by_factor["scene_motion"]["delta"]) < 0.5
    assert abs(by_factor["luminance"]["delta"]) < 0.2


def test_moving_figures_shift_scene_motion_only(plain):
    still, moving = (
        {name: values[plain.labels == CLASSES.index(action)] for name, values in plain.visual.items()}
        for action in ("standing still", "sliding sideways")
    )
    assert np.median(moving["scene_motion"]) > 3 * np.median(still["scene_motion"])
    assert np.median(moving["camera_motion"]) < 0.2 * np.median(moving["scene_motion"])


def test_order_of_videos_changes_no_value(plain, shards, method):
    order = np.random.default_rng(0).permutation(len(shards))
    other = measured("other", Changed(shards, darkened), method)
    straight = compare([plain, other])
    shuffled = compare([measured("plain", shards.subset(order), method), other])
    for name in ("visual", "features", "semantic"):
        for row, again in zip(straight[name], shuffled[name], strict=True):
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            assert numbers == pytest.approx({key: again[key] for key in numbers}, abs=1e-5), name


def test_few_sources_log_a_warning(plain, shards, method, caplog):
    few = measured("few", shards.subset(range(6)), method)
    compare([plain, few])
    assert "few: 6 videos of" in caplog.text
    assert "too narrow" in caplog.text
    assert "plain" not in caplog.text


def test_progress_counts_every_video(shards, method):
    reported = []
    measured(
        "few", shards.subset(range(10)), method, progress=lambda done, total: reported.append((done, total))
    )
    assert reported == [(8, 10), (10, 10)]


def test_explanation_ranks_the_planted_factor_first(plain):
    ranks = plain.visual["luminance"].argsort().argsort()
    predictions = [
        {"path": path, "label": "a", "adapted": "a" if rank >= 36 else "b", "zero_shot": "ab"[rank % 2]}
        for path, rank in zip(plain.paths, ranks, strict=True)
    ]
    by_pair = {(row["predictor"], row["factor"]): row for row in explain([plain], predictions)}
    assert by_pair["adapted", "luminance"]["area"] == 1
    assert by_pair["adapted", "luminance"]["set"] == "plain"
    assert by_pair["zero_shot", "luminance"]["low"] < 0.5 < by_pair["zero_shot", "luminance"]["high"]
    assert {factor for _, factor in by_pair} == {*plain.visual, "class_similarity"}


def test_predictions_of_other_videos_are_refused(plain):
    with pytest.raises(ValueError, match=r"none of the .* the first is of 'elsewhere.mp4'"):
        explain([plain], [{"path": "elsewhere.mp4", "label": "a", "adapted": "a", "zero_shot": "a"}])


def test_tables_are_written_with_a_ledger(plain, tmp_path):
    tables = compare([plain, plain])
    write(tmp_path, [plain, plain], tables, inputs={"sets": ["plain"]}, weights={"clip": "random"})
    for name in (*tables, "videos"):
        with (tmp_path / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(tables.get(name, 2 * plain.paths)), name
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert (ledger["stage"], ledger["weights"]) == ("shift", {"clip": "random"})


def test_folder_of_another_stage_is_not_overwritten(plain, tmp_path):
    write_ledger(tmp_path, "study", inputs={})
    with pytest.raises(ArtifactError, match="must be a 'shift' folder"):
        write(tmp_path, [plain], {}, inputs={}, weights={})


def test_sets_with_equal_names_are_distinguished():
    assert set_names(["a/manifest.csv", "b/manifest.csv"], ["train", "train"]) == ["a", "b"]
    assert set_names(["a.csv", "a.csv"], ["train", "test"]) == ["a train", "a test"]
    assert set_names(["x/a.csv", "y/a.csv"], ["test", "test"]) == ["a test (1)", "a test (2)"]
