"""`Study.importance`, read from the journal of a finished study, in the results and in the charts."""

import pytest
from made_studies import write_journal, write_study

from evclip_ray.reports.charts.study import study_charts
from evclip_ray.results import Study


def test_finished_study_has_importance_of_settings(tmp_path):
    write_journal(write_study(tmp_path, trials=60, seed=5))
    before = (tmp_path / "study.journal").stat()
    study = Study.load(tmp_path)
    shares = study.importance.set_index("path")["importance"]
    assert shares.sum() == pytest.approx(1)
    # made_studies computes the scores from the learning rate.
    assert shares.idxmax() == "optim.lr"
    chart = next(chart for chart in study_charts(study) if chart.name == "importance")
    assert set(chart.data["importance"]["status"]) == {"ok"}
    assert "Within noise and not drawn: " in chart.caption
    assert (tmp_path / "study.journal").stat() == before


def test_importance_of_few_trials_has_a_status(tmp_path):
    assert Study.load(write_study(tmp_path / "without", trials=3)).importance.empty
    few = write_study(tmp_path / "few", trials=3)
    write_journal(few)
    study = Study.load(few)
    assert study.importance["status"].str.startswith("too few trials: 3").all()
    assert "importance" not in {chart.name for chart in study_charts(study)}
