"""Section of an evaluation."""

from evclip_ray.reports.sections.evaluation import (
    Evaluation,
    evaluation_title,
    mask_quality_blocks,
    numbers_table,
    tell_apart,
)

NUMBERS = {
    "videos": 72, "top1": 0.5, "top1_interval": [0.3, 0.7], "top5": 1.0, "mean_class_accuracy": 0.5,
    "log_loss": 1.1, "calibration_error": 0.1,
}  # fmt: skip

INPUTS = {"inputs": {"split": "test", "side": "test"}}


def test_numbers_name_what_their_interval_is_over(tmp_path):
    (tmp_path / "ledger.json").write_text("{}")
    ledger = {
        "inputs": {"split": "test"},
        # A ledger of an earlier version has no groups.
        "zero_shot": NUMBERS,
        "adapted": {**NUMBERS, "groups": 24},
    }
    table = numbers_table(Evaluation(tmp_path, ledger))
    assert list(table.view["interval over"]) == ["72 videos", "72 videos in 24 groups"]
    assert list(table.view["top-1 (95 %)"]) == ["0.500 (0.30 to 0.70)"] * 2


def test_mask_quality_has_a_table_and_names_skipped_videos(tmp_path):
    (tmp_path / "ledger.json").write_text("{}")
    skipped = [{"row": 4, "path": "a.mp4", "reason": "masks/a.npz: is not there"}]
    record = {
        "videos": 72, "named": 60, "scored": 59, "groups": 20, "skipped": skipped, "average_precision": 0.42,
        "average_precision_interval": [0.38, 0.46], "base_share": 0.15, "pointing_game": 0.5,
        "pointing_game_interval": [0.41, 0.59],
    }  # fmt: skip
    table, named, reason = mask_quality_blocks(Evaluation(tmp_path, {**INPUTS, "mask_quality": record}))
    assert list(table.view["average precision (95 %)"]) == ["0.420 (0.38 to 0.46)"]
    assert list(table.view["interval over"]) == ["59 videos in 20 groups"]
    assert table.data["base_share"].tolist() == [0.15]
    assert named.text == "Mask quality: true masks for 60 of 72 videos"
    assert "row 5, a.mp4 (masks/a.npz: is not there)" in reason.text
    none = {"videos": 72, "named": 1, "scored": 0, "groups": None, "skipped": skipped}
    named, reason = mask_quality_blocks(Evaluation(tmp_path, {**INPUTS, "mask_quality": none}))
    assert named.text == "Mask quality: true masks for 1 of 72 videos"
    assert mask_quality_blocks(Evaluation(tmp_path, INPUTS)) == []


def test_evaluations_of_the_same_split_are_told_apart(tmp_path):
    # Charts and tables are stored by these names, so that equal ones would show the same numbers.
    folders = ("best-test", "best-test-dark", "best-test-dark")
    sets = tell_apart([Evaluation(tmp_path / folder, INPUTS) for folder in folders])
    assert [each.name for each in sets] == ["test", "test_best_test_dark", "test_best_test_dark_again"]
    assert [evaluation_title(each) for each in sets[:2]] == [
        "The best trial on the test split",
        "The best trial on the test split (best-test-dark/)",
    ]
