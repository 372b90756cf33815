"""Comparison of a run with the one that it repeats."""

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.training.reproduction import compared_settings, differences, refuse_other_run, threads_of

RECORD = {
    "rows": {"train": "aa", "val": "bb"},
    "weights": {"clip": "openai"},
    "conditions": {"precision": "float32", "device": "cpu"},
    "decoder": "pyav 14",
    "compute": {"threads": 1, "workers": 1, "processor": "x (AVX2)"},
    "provenance": {"versions": {"torch": "2.8.0", "optuna": "4.0"}, "git": "abc"},
}


def test_equal_records_have_no_difference():
    # The search is over: its libraries and the revision of the code are no condition of a number.
    other = {**RECORD, "provenance": {"versions": {"torch": "2.8.0", "optuna": "4.1"}, "git": "def"}}
    assert differences(RECORD, other) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rows": {"train": "cc", "val": "bb"}}, "training videos: aa -> cc"),
        ({"rows": {"train": "aa"}}, "validation videos: bb -> none"),
        ({"weights": {"clip": "file:12"}}, "weights of clip: openai -> file:12"),
        ({"conditions": {"precision": "float32", "device": "NVIDIA H100"}}, "device: cpu -> NVIDIA H100"),
        ({"decoder": "pyav 15"}, "decoder: pyav 14 -> pyav 15"),
        ({"compute": {"threads": 2, "workers": 1, "processor": "x (AVX2)"}}, "threads: 1 -> 2"),
        ({"provenance": {"versions": {"torch": "2.9.0"}}}, "version of torch: 2.8.0 -> 2.9.0"),
    ],
)
def test_each_difference_has_both_values(change, line):
    assert differences(RECORD, {**RECORD, **change}) == [line]


def test_old_record_names_what_it_lacks():
    old = {name: value for name, value in RECORD.items() if name != "compute"}
    assert differences(old, RECORD)[0] == "threads: not recorded -> 1"
    assert threads_of(old) == 1
    assert threads_of({"compute": {"threads": 4}}) == 4


def test_other_settings_are_named_and_a_moved_list_is_not(make_experiment, tmp_path):
    begun = make_experiment().model_dump(mode="json")
    moved = make_experiment(**{"data.manifest": "elsewhere.csv"}).model_dump(mode="json")
    refuse_other_run(tmp_path, {"experiment": begun}, moved, by_content=True)
    with pytest.raises(ArtifactError, match=r"data\.manifest: .* -> elsewhere\.csv\); choose another --out"):
        refuse_other_run(tmp_path, {"experiment": begun}, moved, by_content=False)
    other = make_experiment(seed=3).model_dump(mode="json")
    with pytest.raises(ArtifactError, match=r"another experiment \(begun with -> given: seed: 0 -> 3\)"):
        refuse_other_run(tmp_path, {"experiment": begun}, other, by_content=True)
    assert compared_settings(begun, by_content=True)["data"].keys() == begun["data"].keys() - {
        "manifest",
        "root",
    }
