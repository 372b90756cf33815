"""Runs on cached features give the numbers of runs that compute them, without loading the networks."""

import dataclasses
import json

import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.data.transforms import AugmentConfig, cached_view_seed, cached_views, crop_batch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.video_encoder import FrozenVideoEncoder
from evclip_ray.training.build import build_method
from evclip_ray.training.frozen_cache import open_cached, prepare_cached
from evclip_ray.training.loop import Run

CPU = torch.device("cpu")
BANK = {
    "data__bank": 2,
    "data__augment__brightness": 0.2,
    "data__augment__contrast": 0.2,
    "optim__epochs": 3,
    # With a small learning rate the rounding of other batch sizes or thread counts stays small.
    "optim__lr": 1e-3,
}
CASES = {
    "mask": {"method__prompts": "mask"},
    "both": {"method__prompts": "both"},
    "context": {"method__prompts": "context"},
    "own colours": {"method__prompts": "context", "method__normalization": "imagenet"},
    "linear probe": {"method": {"name": "linear_probe"}},
    "prototype": {"method": {"name": "prototype"}},
    "motion, late": {"method": {"name": "motion_prompts", "mode": "late"}},
    "motion": {"method": {"name": "motion_prompts", "num_vectors": 2}},
    "coop": {"method": {"name": "coop", "num_vectors": 2}},
    "in bfloat16": {"method__prompts": "both", "precision": "bfloat16"},
}
WITHOUT_NETWORKS = ["context", "own colours", "linear probe", "prototype", "motion, late"]


@pytest.fixture(scope="module")
def experiments(make_experiment):
    """Return experiments by case name, each with two cached views."""

    def make(case, **more):
        settings = {**BANK, **CASES[case], **more}
        if "method" in settings:
            method = settings.pop("method")
            experiment = make_experiment(**settings)
            tree = {**experiment.model_dump(mode="json"), "method": method}
            return type(experiment).load(tree)
        return make_experiment(**settings)

    return make


@pytest.fixture(scope="module")
def videos(tiny_videos, experiments, local_ray, tmp_path_factory):
    """Return tiny videos with the cached features of every case."""
    videos = dataclasses.replace(tiny_videos, features=tmp_path_factory.mktemp("features"))
    prepare_cached([(experiments(case), videos) for case in CASES], gpus=0)
    return videos


def epochs(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    names = ("train_loss", "val_loss", "zero_shot_top1")
    return [{name: json.loads(line)[name] for name in names} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_cached_run_has_the_numbers_of_a_computed_run(experiments, videos, tmp_path, case):
    Run.start(experiments(case), videos, folder=tmp_path / "cached").fit(lambda metrics: None)
    Run.start(experiments(case, data__features=[]), videos, folder=tmp_path / "computed").fit(lambda m: None)
    tolerance = 0.05 if "bfloat16" in case else 2e-3
    for cached, computed in zip(epochs(tmp_path / "cached"), epochs(tmp_path / "computed"), strict=True):
        assert cached == pytest.approx(computed, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("case", WITHOUT_NETWORKS)
def test_fully_cached_run_loads_no_frozen_network(experiments, videos, tmp_path, monkeypatch, case):
    def refuse(*arguments, **keywords):
        raise AssertionError("a frozen network was loaded")

    for name in ("load_clip", "load_video_encoder"):
        monkeypatch.setattr(f"evclip_ray.training.build.{name}", refuse)
    monkeypatch.setattr("evclip_ray.data.shards.prepare.ShardSet.frames", refuse)
    run = Run.start(experiments(case), videos, folder=tmp_path)
    assert run.fit(lambda metrics: None)["epoch"] == 3
    assert run.record()["weights"]["clip"] == "random"


def test_mask_run_reads_the_map_of_the_same_crop(experiments, videos, monkeypatch):
    monkeypatch.setattr(FrozenVideoEncoder, "forward", lambda *a: pytest.fail("the encoder was run"))
    run = Run.start(experiments("both"), videos, folder=videos.features / "unused")
    assert isinstance(run.method.frozen.clip, FrozenCLIP)
    batch = next(run.batches["train"]([torch.tensor([3, 1]).numpy()], view=1))
    assert batch.pixels.shape == (2, 4, 3, 64, 64)
    assert batch.video_map.shape[0] == 2
    assert batch.frame_features is None
    monkeypatch.undo()
    live = build_method(experiments("both"), videos.classes, device=CPU).frozen.video_encoder
    expected = live(live.prepare(batch.pixels))
    torch.testing.assert_close(batch.video_map, expected, atol=1e-3, rtol=1e-2)


def test_context_run_reads_only_the_mean_of_the_map(experiments, videos, tmp_path):
    run = Run.start(experiments("context"), videos, folder=tmp_path)
    batch = next(run.batches["train"]([torch.arange(2).numpy()]))
    assert batch.video_map.shape == (2, 128, 1, 1, 1)
    assert batch.pixels is None


def test_cached_view_does_not_depend_on_the_batch():
    frames = torch.randint(0, 255, (3, 4, 40, 60, 3), dtype=torch.uint8)
    augment = AugmentConfig(brightness=0.3, contrast=0.3)
    seeds = [cached_view_seed("a.mp4", row, 1) for row in range(3)]
    together = cached_views(frames, size=32, augment=augment, seeds=seeds)
    alone = [cached_views(frames[i : i + 1], size=32, augment=augment, seeds=[seeds[i]]) for i in (2, 0)]
    assert torch.equal(together[[2, 0]], torch.cat(alone))
    others = {
        cached_view_seed("a.mp4", 0, 0),
        cached_view_seed("b.mp4", 0, 1),
        cached_view_seed("a.mp4", 1, 1),
        seeds[0],
    }
    assert len(others) == 4
    drawn = crop_batch(
        frames[:1], size=32, augment=augment, generator=torch.Generator().manual_seed(seeds[0])
    )
    assert torch.equal(together[:1], drawn)


def test_epochs_cycle_through_views_from_the_seed(experiments, videos, tmp_path, monkeypatch):
    run = Run.start(experiments("context", seed=1, data__bank=2), videos, folder=tmp_path)
    views_read = []
    read = run.batches["train"].features["frame_features"].read
    monkeypatch.setattr(
        run.batches["train"].features["frame_features"],
        "read",
        lambda positions, view, **how: (views_read.append(view), read(positions, view, **how))[1],
    )
    run.fit(lambda metrics: views_read.append("epoch"))
    firsts = [
        views_read[0],
        *(views_read[i + 1] for i, view in enumerate(views_read[:-1]) if view == "epoch"),
    ]
    assert firsts == [1, 0, 1]


def test_missing_features_are_computed_with_a_warning(experiments, videos, tmp_path, caplog):
    run = Run.start(experiments("context", data__augment__flip=0.25), videos, folder=tmp_path)
    assert "are not cached" in caplog.text
    assert run.fit(lambda metrics: None)["epoch"] == 3
    assert open_cached(experiments("context", data__bank=None), videos, device=CPU).needs_pixels


def test_class_texts_without_cached_views_are_encoded_once(experiments, tiny_videos, tmp_path, monkeypatch):
    experiment = experiments("both", data__bank=None, optim__epochs=1)
    videos = dataclasses.replace(tiny_videos, features=tmp_path / "features")
    first = Run.start(experiment, videos, folder=tmp_path / "first")
    (cached_file,) = (tmp_path / "features").rglob("*.arrow")
    alone = Run.start(experiment, dataclasses.replace(videos, features=None), folder=tmp_path / "alone")
    assert torch.equal(first.method.text_features, alone.method.text_features)
    with monkeypatch.context() as patched:
        patched.setattr(FrozenCLIP, "encode_text_raw", lambda *a: pytest.fail("encoded again"))
        again = Run.start(experiment, videos, folder=tmp_path / "again")
    assert torch.equal(again.method.text_features, first.method.text_features)
    whole = cached_file.read_bytes()
    cached_file.write_bytes(whole[:-40])
    Run.start(experiment, videos, folder=tmp_path / "damaged")
    assert cached_file.read_bytes() == whole
    assert first.fit(lambda metrics: None)["epoch"] == 1


def test_class_texts_on_a_full_disk_only_warn(experiments, tiny_videos, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    videos = dataclasses.replace(tiny_videos, features=tmp_path / "file" / "features")
    run = Run.start(experiments("both", data__bank=None), videos, folder=tmp_path / "run")
    assert "class texts cannot be cached" in caplog.text
    assert run.batches["train"].pixels


def test_uncacheable_features_are_refused_with_the_reason(make_experiment):
    message = r"'ev_clip'.*'frame_features'; it can cache \['class_text', 'video_map'\]"
    with pytest.raises(ConfigError, match=message):
        make_experiment(data__bank=2, data__features=["frame_features"], method__prompts="both")
    with pytest.raises(ConfigError, match=r"every epoch draws new views. Set data\.bank"):
        make_experiment(data__features=["video_map"])
    with pytest.raises(ConfigError, match=r"must be at least data\.train_views"):
        make_experiment(data__bank=2, data__train_views=3)
