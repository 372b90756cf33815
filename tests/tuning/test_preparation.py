"""Preparation of variants by an actor while trials run: order, progress and errors."""

import time

import pytest
import torch

from evclip_ray.locking import building
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.frozen_cache import open_cached
from evclip_ray.training.resources import ResourceRequest
from evclip_ray.training.video_plan import plan_videos
from evclip_ray.tuning.preparation import Preparation, Variant, may_wait
from evclip_ray.tuning.stopper import Stops

pytestmark = pytest.mark.slow
REQUEST = ResourceRequest(1, 0, 0)


@pytest.fixture
def variants(make_experiment, tmp_path):
    """Return two variants by name, in a separate cache."""

    def variant(name, frames):
        experiment = make_experiment(view__num_frames=frames)
        plan = plan_videos(experiment, cache=tmp_path / "cache")
        return Variant(plan, (experiment,), tmp_path / f"{name}.json")

    return {"a": variant("a", 2), "b": variant("b", 4)}


def until(condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_awaited_variant_is_first_and_warnings_are_raised(variants, local_ray, tmp_path, caplog):
    stops, reported = Stops(None, max_epochs=1), []
    locked = variants["b"].plan.folder("val", tmp_path / "cache")
    with Preparation(
        variants,
        cache=tmp_path / "cache",
        request=REQUEST,
        stops=stops,
        progress=lambda *news: reported.append(news),
    ) as preparation:
        assert preparation.is_ready("something that every trial has")
        with building([locked]):
            assert not preparation.is_ready("b")
            until(lambda: preparation.is_ready("b") or "is in use by process" in caplog.text)
            assert not variants["a"].noted.exists(), "no trial waits for it"
        until(lambda: preparation.is_ready("b"))
        assert len(Videos.load(variants["b"].noted).sets["val"]) > 0
        until(lambda: (preparation.on_step_begin(0, []), variants["a"].noted.exists())[1])
    assert {doing for doing, _, _ in reported} == {"decoding train", "decoding val"}
    assert stops.error is None


def test_features_are_computed_on_spare_cpus(make_experiment, local_ray, tmp_path):
    experiment = make_experiment(view__num_frames=2, data__bank=1)
    plan = plan_videos(experiment, cache=tmp_path / "cache")
    variants = {"a": Variant(plan, (experiment,), tmp_path / "a.json")}
    stops = Stops(None, max_epochs=1)

    class Busy:
        def work(self):
            """Return once the actor has its CPU."""

    with Preparation(variants, cache=tmp_path / "cache", request=REQUEST, stops=stops) as preparation:
        trial = local_ray.remote(Busy).options(num_cpus=1).remote()
        local_ray.get(trial.work.remote())
        until(lambda: preparation.is_ready("a") or stops.error or variants["a"].noted.exists())
        local_ray.kill(trial)
        until(lambda: preparation.is_ready("a") or stops.error)
    videos = Videos.load(variants["a"].noted)
    cached = open_cached(experiment, videos, device=torch.device("cpu"))
    assert {split: set(fields) for split, fields in cached.sets.items()} == {
        "train": {"video_map"},
        "val": {"video_map"},
    }


def test_preparation_error_ends_the_call(variants, local_ray, tmp_path):
    stops = Stops(None, max_epochs=1)
    in_the_way = variants["a"].plan.folder("train", tmp_path / "cache")
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder")
    with Preparation(variants, cache=tmp_path / "cache", request=REQUEST, stops=stops) as preparation:
        assert not preparation.is_ready("a")
        until(lambda: preparation.is_ready("a") or stops.error)
    assert type(stops.error) is FileExistsError
    assert str(in_the_way) in str(stops.error)


def test_single_machine_prepares_before_trials(variants, local_ray):
    assert not may_wait(variants.values(), REQUEST)
