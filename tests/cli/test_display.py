import dataclasses
from pathlib import Path

from rich.console import Console

from evclip_ray.cli import display
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.study_folder import StudyFolder


def test_narrow_leaderboard_has_one_column_of_settings(monkeypatch):
    study = Path(__file__).parents[1] / "data_files" / "old_study"
    many = {f"method.mask.{name}": 0.12345 for name in ("depth", "heads", "width", "window", "mlp_ratio")}
    rows = [
        dataclasses.replace(row, overrides={**many, **row.overrides})
        for row in leaderboard(StudyFolder(study).trials())
    ]
    for width, as_one in ((80, True), (160, False)):
        monkeypatch.setattr(display, "console", Console(width=width, record=True))
        display.console.print(display.leaderboard_table(rows))
        text = display.console.export_text()
        assert ("settings" in text) is as_one
        assert text.count("0.123") == len(many) * len(rows)
        assert "0.500 (0.19 to 0.81)" in text
