"""Settings that are written in another way but have equal values resume a study or a ladder."""

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.scaling.ladder_folder import LadderFolder
from evclip_ray.tuning.equal_settings import as_recorded, begun_location
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.tuner import StudyRun

FIXED = {"data.manifest": "none.csv", "backbone.name": "debug", "method.name": "coop", "optim.epochs": 4}
SEARCH = {"optim.lr": {"loguniform": [0.001, 1.0]}}


def study(root, *, fixed=None, search=None):
    data = {"fixed": {**FIXED, **(fixed or {})}, "search": {**SEARCH, **(search or {})}}
    return StudyRun(SearchSpace.load("small", data), root, cache=root)


@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        ({"optim.weight_decay": "1e-2"}, {"optim.weight_decay": 0.01}),
        ({"optim.weight_decay": 0.01}, {"optim.weight_decay": "1e-2"}),
        ({"optim.epochs": 4}, {"optim.epochs": 4.0}),
        ({"optim.clip_norm": 1}, {"optim.clip_norm": 1.0}),
    ],
)
def test_equal_fixed_values_resume_a_study(begun, resumed, tmp_path):
    study(tmp_path / "study", fixed=begun).claim()
    ledger = (tmp_path / "study" / "ledger.json").read_bytes()
    study(tmp_path / "study", fixed=resumed).claim()
    assert (tmp_path / "study" / "ledger.json").read_bytes() == ledger


@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        ({"loguniform": [0.001, 1.0]}, {"loguniform": ["1e-3", 1]}),
        ({"choice": [1, 2]}, {"choice": [1.0, 2.0]}),
        ({"quantised": [1, 3, 1]}, {"quantised": [1.0, 3.0, 1.0]}),
    ],
)
def test_equal_bounds_and_choices_resume_a_study(begun, resumed, tmp_path):
    study(tmp_path / "study", search={"optim.lr": begun}).claim()
    study(tmp_path / "study", search={"optim.lr": resumed}).claim()


@pytest.mark.parametrize(
    ("fixed", "search", "differs"),
    [
        ({"optim.weight_decay": 0.02}, None, r"optim\.weight_decay: 1e-2 -> 0\.02"),
        # The default of a later version may be another one.
        (
            {"optim.weight_decay": 0.01, "optim.batch_size": 2},
            None,
            r"given: optim\.batch_size: not set -> 2",
        ),
        ({"optim.weight_decay": 0.01}, {"optim.lr": {"loguniform": [0.002, 1.0]}}, r"search\.optim\.lr: .*"),
    ],
)
def test_other_values_are_refused(fixed, search, differs, tmp_path):
    study(tmp_path / "study", fixed={"optim.weight_decay": "1e-2"}).claim()
    with pytest.raises(ArtifactError, match=rf"belongs to another study \(.*{differs}"):
        study(tmp_path / "study", fixed=fixed, search=search).claim()


def test_moved_list_is_the_same_study_with_a_record(tmp_path):
    root = tmp_path / "study"
    study(root).claim()
    moved = {"data.manifest": "moved.csv", "data.root": "videos"}
    # A study of version 0.1 has no record of its videos, so that nothing proves that they are the same.
    with pytest.raises(ArtifactError, match=r"data\.manifest: none\.csv -> moved\.csv"):
        study(root, fixed=moved).missing()
    (root / "rows").mkdir()
    (root / "rows" / "key.parquet").touch()
    ledger = (root / "ledger.json").read_bytes()
    study(root, fixed=moved).claim()
    assert (root / "ledger.json").read_bytes() == ledger
    with pytest.raises(ArtifactError, match=r"optim\.epochs: 4 -> 5"):
        study(root, fixed={**moved, "optim.epochs": 5}).missing()


def test_moved_list_of_a_ladder_is_the_same_with_records(tmp_path):
    folder = LadderFolder(tmp_path)
    begun = {"fixed": {"data.manifest": "a.csv", "optim.epochs": 4}, "search": {}, "along": ["backbone.name"]}
    folder.claim(begun)
    moved = {**begun, "fixed": {**begun["fixed"], "data.manifest": "b.csv"}}
    assert as_recorded(moved, folder) == moved
    (folder.step("small") / "rows").mkdir(parents=True)
    (folder.step("small") / "rows" / "key.parquet").touch()
    assert as_recorded(moved, folder) == begun
    assert begun_location(moved, folder)["manifest"] == "a.csv"
    assert begun_location(begun, folder) is None


def test_text_choice_is_not_the_number(tmp_path):
    # Optuna's record holds the choice itself, and the text is another one than the number.
    study(tmp_path / "study", search={"optim.lr": {"choice": ["1e-2", 1]}}).claim()
    with pytest.raises(ArtifactError, match=r"search\.optim\.lr: choice\(1e-2, 1\) -> choice\(0\.01, 1\)"):
        study(tmp_path / "study", search={"optim.lr": {"choice": [0.01, 1]}}).claim()


def test_settings_of_an_earlier_version_are_compared_as_written(tmp_path):
    folder = LadderFolder(tmp_path)
    begun = {"fixed": {"data.removed": 1}, "search": {}, "seed": 0}
    folder.claim(begun)
    assert as_recorded({**begun, "fixed": {"data.removed": 1.0}}, folder) == begun
    other = {**begun, "fixed": {"data.removed": 2}}
    assert as_recorded(other, folder) == other


def test_damaged_ledger_is_left_to_the_check(tmp_path):
    (tmp_path / "ledger.json").write_text("")
    assert as_recorded({"seed": 1}, LadderFolder(tmp_path)) == {"seed": 1}
