"""Runs in a pack: each is the run that it would have been alone."""

import json

import pytest
import torch
from safetensors.torch import load_file

from evclip_ray.models.asks import AskFrameFeatures, AskVideoMap
from evclip_ray.training import pack
from evclip_ray.training.build import build_method
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.pack import Ended, Pack
from evclip_ray.training.pauses import Epoch

DEVICE = torch.device("cpu")

MIXED = {
    "one": {"seed": 1},
    "two": {
        "seed": 2,
        "optim__lr": 3e-3,
        "optim__batch_size": 5,
        "optim__clip_norm": 0.05,
        "optim__epochs": 1,
    },
    "three": {"method__mask__depth": 2, "method__prompts": "mask", "optim__batch_size": 4},
}
"""Members that differ in seed, learning rate, batch size, clipping, prompts, sizes and epochs."""


def starter(experiment, videos, folder):
    def start():
        return Run(
            experiment, videos, build_method(experiment, videos.classes, device=DEVICE),
            folder=folder, zero_shot=folder.parent / "zero_shot.json",
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def make(make_experiment, tiny_videos):
    """`make(folder, **overrides)`: what starts a run of two epochs."""

    def make(folder, **overrides):
        return starter(make_experiment(**{"optim__epochs": 2, **overrides}), tiny_videos, folder)

    return make


@pytest.fixture(scope="module")
def alone(make, tmp_path_factory):
    """The folder of each of MIXED trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    for name, settings in MIXED.items():
        make(root / name, **settings)().fit(lambda metrics: None)
    return root


@pytest.fixture
def mixed(make, tmp_path):
    """A pack of MIXED, under the temporary folder."""
    pack = Pack()
    for name, settings in MIXED.items():
        pack.add(name, make(tmp_path / name, **settings))
    return pack


@pytest.fixture
def together(monkeypatch):
    """How many members' frames went through the tower at once, in order; `most` of them fit in memory."""

    class Counts(list):
        most = 99

    counts, answer = Counts(), AskFrameFeatures.answer_together.__func__

    def count(cls, asks):
        if len(asks) > counts.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        counts.append(len(asks))
        return answer(cls, asks)

    monkeypatch.setattr(AskFrameFeatures, "answer_together", classmethod(count))
    return counts


def advance(pack, told=None):
    """A round, after which those who told of an epoch go on; what ended in it by name."""
    events = pack.round()
    for name, event in events.items():
        if isinstance(event, Epoch):
            if told is not None:
                told.append((name, event.metrics["epoch"]))
            pack.go_on(name)
    return {name: event for name, event in events.items() if not isinstance(event, Epoch)}


def train(pack, told=None):
    """Train all members to their ends; how each ended by name."""
    ended = {}
    while pack.is_busy:
        ended |= advance(pack, told)
    return ended


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]


def assert_same_run(alone, packed):
    """Equal to rounding: products of another size add in another order, and 7 steps of AdamW carry it on."""
    for one, other in zip(history(alone), history(packed), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    trained = load_file(alone / "last" / "adapter.safetensors")
    for name, value in load_file(packed / "last" / "adapter.safetensors").items():
        torch.testing.assert_close(value, trained[name], rtol=1e-4, atol=1e-5)


def test_every_member_of_a_pack_is_the_run_that_it_is_alone(alone, mixed, together, tmp_path):
    told = []
    ended = train(mixed, told)
    assert {name: type(event) for name, event in ended.items()} == dict.fromkeys(MIXED, Ended)
    assert sorted(told) == [("one", 1), ("one", 2), ("three", 1), ("three", 2), ("two", 1)]
    assert max(together) == 3, "all frames of a step go through the tower together"
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


@pytest.mark.parametrize(("frames", "most"), [(1, 1), (45, 2), (99, 3)])
def test_on_a_cpu_no_more_frames_are_computed_at_once_than_gain_by_it(
    alone, mixed, together, tmp_path, monkeypatch, frames, most
):
    """Members of at most 24, 20 and 16 frames a step."""
    monkeypatch.setattr(pack, "_VALUES_ON_A_CPU", frames * 3 * 64**2)
    train(mixed)
    assert max(together) == most
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


def test_a_pack_that_memory_does_not_hold_goes_on_in_halves(alone, mixed, together, tmp_path, caplog):
    ended = {}
    while len(together) < 5:
        ended |= advance(mixed)
    together.most = 1
    ended |= train(mixed)
    assert {name: type(event) for name, event in ended.items()} == dict.fromkeys(MIXED, Ended)
    assert mixed.width == 1
    assert "runs at once" in caplog.text
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


def test_a_run_that_does_not_fit_even_alone_fails_as_it_would_alone(make, together, tmp_path):
    together.most = 0
    pack = Pack()
    pack.add("large", make(tmp_path))
    assert isinstance(train(pack)["large"].error, torch.OutOfMemoryError)
    assert not pack.is_busy


def test_a_member_that_diverges_takes_no_other_with_it(alone, make, mixed, tmp_path):
    mixed.add("wild", make(tmp_path / "wild", optim__lr=1e30, optim__warmup_epochs=0))
    ended = train(mixed)
    assert ended["wild"].metrics["diverged"]
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


def test_a_member_whose_videos_cannot_be_read_fails_by_itself(alone, make, mixed, tmp_path):
    def start():
        run = make(tmp_path / "broken")()
        whole = run.batches["train"]
        run.batches["train"] = lambda *args, **options: (_ for _ in ()).throw(OSError("shard is gone"))
        run.batches["train"].num_views = whole.num_views
        return run

    def fail_to_start():
        raise ValueError("no such class list")

    mixed.add("broken", start)
    mixed.add("unbuilt", fail_to_start)
    ended = train(mixed)
    assert str(ended["broken"].error) == "shard is gone"
    assert str(ended["unbuilt"].error) == "no such class list"
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


def test_a_member_that_is_stopped_or_killed_leaves_the_others_and_goes_on_later(alone, make, mixed, tmp_path):
    while "one" not in mixed.round():
        pass
    mixed.remove("one")
    train(mixed)
    assert len(history(tmp_path / "one")) == 1
    later = Pack()
    later.add("one", make(tmp_path / "one", **MIXED["one"]))
    train(later)
    for name in MIXED:
        assert_same_run(alone / name, tmp_path / name)


def test_dropout_draws_in_a_pack_what_it_draws_alone(make_experiment, tiny_videos, tmp_path):
    settings = make_experiment(optim__epochs=1).model_dump(mode="json")

    def start(name, seed=0):
        settings["method"], settings["seed"] = {"name": "aim", "dropout": 0.5}, seed
        return starter(ExperimentConfig.load(settings), tiny_videos, tmp_path / name)

    start("alone")().fit(lambda metrics: None)
    pack = Pack()
    pack.add("aim", start("aim"))
    pack.add("other", start("other", seed=3))
    train(pack)
    assert_same_run(tmp_path / "alone", tmp_path / "aim")
    assert history(tmp_path / "aim") != history(tmp_path / "other")


def test_members_that_see_the_same_views_cut_and_encode_them_once(make, together, tmp_path, monkeypatch):
    encoded = []
    answer = AskVideoMap.answer_together.__func__

    def count(cls, asks):
        encoded.append((len(asks), len({id(ask.pixels) for ask in asks})))
        return answer(cls, asks)

    monkeypatch.setattr(AskVideoMap, "answer_together", classmethod(count))
    pack = Pack()
    for name, settings in {"a": {}, "b": {"optim__lr": 3e-3}, "c": {"seed": 5}}.items():
        pack.add(name, make(tmp_path / name, **settings, optim__epochs=1))
    train(pack)
    assert (3, 2) in encoded, "two members of one seed share their pixels"
    for name, settings in {"a": {}, "b": {"optim__lr": 3e-3}}.items():
        make(tmp_path / "alone" / name, **settings, optim__epochs=1)().fit(lambda metrics: None)
        assert_same_run(tmp_path / "alone" / name, tmp_path / name)
