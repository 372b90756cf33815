"""The default size of a study's frames, before and after frames kept their aspect ratio."""

import json

import pytest

from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_view import trial_experiment, with_own_view
from evclip_ray.tuning.tuner import StudyRun, identity

FIXED = {"data.manifest": "videos.csv", "backbone.name": "debug"}
SEARCH = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}


def space_of(fixed=None, search=None):
    return SearchSpace.load("space", {"fixed": {**FIXED, **(fixed or {})}, "search": search or SEARCH})


def view_of(space):
    return space.experiment().view.model_dump(exclude={"num_frames", "sampling", "window_frames", "decoder"})


def test_new_study_keeps_the_aspect_of_its_videos(tmp_path):
    run = StudyRun(space_of(), tmp_path / "study", cache=tmp_path)
    assert view_of(run.space) == {"fit": "short_side", "short_side": 73}
    run.claim()
    assert json.loads(run.folder.fixed.read_text())["view"] == {"fit": "short_side"}


def test_study_of_an_earlier_version_keeps_its_size(tmp_path):
    folder = tmp_path / "study"
    StudyRun(space_of(), folder, cache=tmp_path).claim()
    earlier = dict(space_of().fixed)
    (folder / "fixed.json").write_text(json.dumps(earlier))
    resumed = StudyRun(space_of(), folder, cache=tmp_path)
    resumed.claim()
    assert view_of(resumed.space) == {"fit": "crop", "height": 256, "width": 256}
    assert trial_experiment(earlier, {}).view == resumed.space.experiment().view
    assert json.loads(resumed.folder.fixed.read_text())["view"] == {"fit": "crop"}
    # A new step of its ladder, or a fork, stores frames in the same way.
    assert (
        view_of(StudyRun(space_of(), tmp_path / "next", cache=tmp_path, like=folder).space)["fit"] == "crop"
    )
    fork = StudyRun(space_of(), tmp_path / "fork", cache=tmp_path, fork_of=folder)
    assert view_of(fork.space)["fit"] == "crop"


def test_default_view_is_not_part_of_the_identity(tmp_path):
    space = space_of()
    run = StudyRun(space, tmp_path / "study", cache=tmp_path)
    run.claim()
    assert run.folder.check(identity(space))


@pytest.mark.parametrize(
    ("fixed", "search", "fit"),
    [
        ({"view.height": 72}, None, "crop"),
        ({"view.fit": "stretch"}, None, "stretch"),
        ({"preset": "published"}, None, "stretch"),
        ({"view.short_side": 96}, None, "short_side"),
        ({}, {"view.height": {"choice": [72, 96]}, **SEARCH}, "crop"),
    ],
)
def test_named_size_decides(fixed, search, fit):
    space = with_own_view(space_of(fixed, search), [])
    assert space.experiment().view.fit == fit
    assert trial_experiment(space.fixed, {}).view == space.experiment().view


def test_searched_fit_stays_searched():
    space = with_own_view(space_of(search={"view.fit": {"choice": ["crop", "short_side"]}, **SEARCH}), [])
    assert [axis.path for axis in space.search] == ["view.fit", "optim.lr"]
    assert trial_experiment(space.fixed, {"view.fit": "short_side"}).view.short_side == 73


def test_backbones_of_several_inputs_have_frames_of_their_own():
    search = {"backbone.name": {"choice": ["ViT-B-16", "ViT-L-14-336"]}, **SEARCH}
    space = with_own_view(space_of(search=search), [])
    sides = [space.experiment(point).view.short_side for point in space.decoded_variants()]
    assert sides == [256, 384]
    same = space_of(search={"backbone.name": {"choice": ["ViT-B-16", "ViT-B-32"]}, **SEARCH})
    assert list(same.decoded_variants()) == [{}]
