"""Section of an evaluation."""

from evclip_ray.reports.sections.evaluation import Evaluation, numbers_table

NUMBERS = {
    "videos": 72, "top1": 0.5, "top1_interval": [0.3, 0.7], "top5": 1.0, "mean_class_accuracy": 0.5,
    "log_loss": 1.1, "calibration_error": 0.1,
}  # fmt: skip


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
