"""All steps of a ladder store frames alike, also in a ladder of an earlier version."""

import json

import pytest

from evclip_ray.scaling.ladder import LadderRun
from evclip_ray.scaling.ladder_steps import Ladder

SPACE = """
fixed: {data.manifest: videos.csv, backbone.name: debug}
search: {optim.lr: {loguniform: [1.0e-4, 1.0e-2]}}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    ladder = Ladder.read(tmp_path / "space.yaml", over={"method.mask.depth": [1, 2]})
    return LadderRun(ladder, tmp_path / "ladder", cache=tmp_path)


@pytest.mark.parametrize(("recorded", "fit"), [(None, "short_side"), ({}, "crop")])
def test_new_step_stores_frames_as_the_others_do(run, recorded, fit):
    first, second = run.ladder.steps
    if recorded is not None:
        folder = run.folder.step(first.name)
        folder.mkdir(parents=True)
        (folder / "fixed.json").write_text(json.dumps(recorded))
    assert run._study(second).space.experiment().view.fit == fit
