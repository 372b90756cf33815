"""Which videos an experiment names, before any is decoded."""

import csv
import dataclasses
import shutil

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.training.datamodule import Videos, plan_videos, prepare
from evclip_ray.training.experiment import ExperimentConfig


@pytest.fixture
def plan(make_experiment, tmp_path):
    def planned(splits=("train", "val"), **overrides):
        return plan_videos(make_experiment(**overrides), cache=tmp_path / "cache", splits=splits)

    return planned


def labels(plan, split):
    column = plan.manifest.column("label")
    return {column[row] for row in plan.rows[split]}


def test_base_and_novel_classes_are_halves_that_share_nothing(plan):
    whole, base, novel = plan(), plan(data__classes="base"), plan(data__classes="novel")
    assert len(base.classes) == len(novel.classes) == 3
    assert set(base.classes) | set(novel.classes) == set(whole.classes)
    for split in ("train", "val"):
        assert labels(base, split) == set(base.classes)
        assert not labels(base, split) & labels(novel, split)


def test_a_file_of_names_gives_the_classes_and_their_order(plan, tmp_path):
    names = plan().classes
    chosen = (names[4], names[1])
    (tmp_path / "names.csv").write_text(f"id,name\n0,{chosen[0]}\n1,{chosen[1].upper()}\n")
    found = plan(data__classes=str(tmp_path / "names.csv"), data__shots=2)
    assert found.classes == chosen
    assert len(found.rows["train"]) == 4
    assert labels(found, "train") == set(chosen)


def test_only_the_splits_that_are_asked_for_are_named(plan):
    assert set(plan().rows) == {"train", "val"}
    assert set(plan(splits=("test",), data__shots=2).rows) == {"test"}


def leaky_copy(manifest, folder):
    """The videos and their manifest, with the bytes of a training video under a name in test."""
    shutil.copytree(manifest.parent, folder)
    with (folder / manifest.name).open() as stream:
        rows = list(csv.DictReader(stream))
    split = {name: next(row["path"] for row in rows if row["split"] == name) for name in ("train", "test")}
    shutil.copyfile(folder / split["train"], folder / split["test"])
    return folder / manifest.name


def test_one_video_under_two_names_in_two_splits_is_refused_before_it_is_decoded(
    plan, tiny_manifest, tmp_path
):
    copy = str(leaky_copy(tiny_manifest, tmp_path / "copy"))
    refused = plan(data__manifest=copy)
    assert refused.leaking_rows == 0
    with pytest.raises(ManifestError, match=r"1 leaks between splits \(1 by content\) reach 2 rows"):
        prepare(refused, cache=tmp_path / "cache")
    assert plan(data__manifest=copy, data__allow_leaks=True).leaking_rows == 2


def test_a_file_in_two_splits_is_refused_unless_leaks_are_allowed(plan, tiny_manifest, tmp_path):
    rows = tiny_manifest.read_text().splitlines()
    trained = next(row for row in rows if '"train"' in row)
    path = tmp_path / "leaky.csv"
    path.write_text("\n".join([*rows, trained.replace('"train"', '"test"')]))
    settings = {"data__manifest": str(path), "data__root": str(tiny_manifest.parent)}
    with pytest.raises(ManifestError, match="in more than one split"):
        plan(**settings)
    assert plan(**settings, data__allow_leaks=True).leaking_rows >= 2


def test_the_mark_of_leaks_goes_with_the_decoded_videos(tiny_videos, tmp_path):
    assert tiny_videos.leaking_rows == 0
    dataclasses.replace(tiny_videos, leaking_rows=3).save(tmp_path / "videos.json")
    assert Videos.load(tmp_path / "videos.json").leaking_rows == 3


def test_a_setting_that_is_misspelled_names_the_nearest():
    with pytest.raises(ConfigError, match=r"nearest valid name is 'data.allow_leaks'"):
        ExperimentConfig.load({"data": {"manifest": "a.csv", "allow_leak": True}})
