"""Lists of videos as an experiment reads them: sources, names of labels and missing files."""

import logging

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.training.experiment import DataConfig, ExperimentConfig
from evclip_ray.training.video_lists import check_source, resolve_manifest
from evclip_ray.training.video_plan import plan_videos


def test_labels_that_are_numbers_are_a_warning(make_experiment, tmp_path, caplog):
    lines = [f"{label}{k}.mp4,{label}" for label in (1, 2) for k in range(5)]
    for line in lines:
        (tmp_path / line.partition(",")[0]).touch()
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, ""]))
    with caplog.at_level(logging.WARNING):
        plan_videos(make_experiment(data__manifest=str(tmp_path / "list.csv")), cache=tmp_path)
    assert "all labels are numbers, such as '1'" in caplog.text
    (tmp_path / "names.txt").write_text("1 hug\n2 kick\n")
    settings = {
        "data__manifest": str(tmp_path / "list.csv"),
        "data__class_names": str(tmp_path / "names.txt"),
    }
    assert plan_videos(make_experiment(**settings), cache=tmp_path).classes == ("hug", "kick")


def test_missing_files_are_refused_unless_one_of_them_exists(make_experiment, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.mp4,hug\nb.mp4,kick\n")
    experiment = make_experiment(data__manifest=str(tmp_path / "list.csv"))
    with pytest.raises(ManifestError, match="2 of 2 videos are missing"):
        check_source(experiment, cache=tmp_path / "cache")
    (tmp_path / "a.mp4").touch()
    check_source(experiment, cache=tmp_path / "cache")


def test_check_of_the_small_world_draws_no_videos(tmp_path):
    check_source(ExperimentConfig.load({"data": {"world": {"domain": "plain"}}}), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_removed_synthetic_videos_name_the_replacement(tmp_path):
    data = DataConfig(synthetic={"videos_per_class": 5})
    with pytest.raises(ConfigError, match=r"data\.synthetic: replaced by data\.world .*--data FILE"):
        resolve_manifest(data, cache=tmp_path)
