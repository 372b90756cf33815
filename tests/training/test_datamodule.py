"""Choice of the videos of an experiment, before any is decoded."""

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


def test_base_and_novel_classes_are_disjoint_halves(plan):
    whole, base, novel = plan(), plan(data__classes="base"), plan(data__classes="novel")
    assert len(base.classes) == len(novel.classes) == 3
    assert set(base.classes) | set(novel.classes) == set(whole.classes)
    for split in ("train", "val"):
        assert labels(base, split) == set(base.classes)
        assert not labels(base, split) & labels(novel, split)


def test_file_of_names_sets_classes_and_order(plan, tmp_path):
    names = plan().classes
    chosen = (names[4], names[1])
    (tmp_path / "names.csv").write_text(f"id,name\n0,{chosen[0]}\n1,{chosen[1].upper()}\n")
    chosen_plan = plan(data__classes=str(tmp_path / "names.csv"), data__shots=2)
    assert chosen_plan.classes == chosen
    assert len(chosen_plan.rows["train"]) == 4
    assert labels(chosen_plan, "train") == set(chosen)


def test_plan_contains_only_requested_splits(plan):
    assert set(plan().rows) == {"train", "val"}
    assert set(plan(splits=("test",), data__shots=2).rows) == {"test"}


def leaky_copy(manifest, folder):
    """Write a manifest whose test split has the bytes of a training video with another name."""
    shutil.copytree(manifest.parent, folder)
    with (folder / manifest.name).open() as stream:
        rows = list(csv.DictReader(stream))
    split = {name: next(row["path"] for row in rows if row["split"] == name) for name in ("train", "test")}
    shutil.copyfile(folder / split["train"], folder / split["test"])
    return folder / manifest.name


def test_unknown_split_names_those_of_the_list(make_experiment, tmp_path):
    with pytest.raises(
        ConfigError, match=r"split 'tset' is unknown; did you mean 'test'\? \(splits in .*train, "
    ):
        plan_videos(make_experiment(), cache=tmp_path, splits=("train", "tset"))


def test_same_bytes_in_two_splits_are_refused_before_decoding(plan, tiny_manifest, tmp_path):
    copy = str(leaky_copy(tiny_manifest, tmp_path / "copy"))
    refused = plan(data__manifest=copy)
    assert refused.leaking_rows == 0
    with pytest.raises(ManifestError, match=r"1 leak between splits \(1 by content\) reach 2 rows"):
        prepare(refused, cache=tmp_path / "cache")
    assert plan(data__manifest=copy, data__allow_leaks=True).leaking_rows == 2


def test_file_in_two_splits_is_refused_unless_leaks_allowed(plan, tiny_manifest, tmp_path):
    rows = tiny_manifest.read_text().splitlines()
    trained = next(row for row in rows if '"train"' in row)
    path = tmp_path / "leaky.csv"
    path.write_text("\n".join([*rows, trained.replace('"train"', '"test"')]))
    settings = {"data__manifest": str(path), "data__root": str(tiny_manifest.parent)}
    with pytest.raises(ManifestError, match="in more than one split"):
        plan(**settings)
    assert plan(**settings, data__allow_leaks=True).leaking_rows >= 2


def test_leaking_rows_are_saved_with_the_decoded_videos(tiny_videos, tmp_path):
    assert tiny_videos.leaking_rows == 0
    dataclasses.replace(tiny_videos, leaking_rows=3).save(tmp_path / "videos.json")
    assert Videos.load(tmp_path / "videos.json").leaking_rows == 3


def test_misspelled_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'data.allow_leaks'"):
        ExperimentConfig.load({"data": {"manifest": "a.csv", "allow_leak": True}})
