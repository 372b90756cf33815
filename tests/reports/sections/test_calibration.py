"""Section of a calibration."""

import pytest
from made_studies import write_calibration, write_evaluation

from evclip_ray.reports.document import Chart, Note, Table
from evclip_ray.reports.sections.calibration import calibration_sections
from evclip_ray.reports.sections.evaluation import Evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    root = write_evaluation(tmp_path_factory.mktemp("calibrated") / "best-test", split="test")
    write_calibration(root)
    return Evaluation.load_all(root)[0]


def test_calibration_has_tables_and_charts(evaluation):
    (section,) = calibration_sections(evaluation)
    assert section.title == "Calibration: the best trial on the test split"
    tables = {block.name: block for block in section.blocks if isinstance(block, Table)}
    assert list(tables) == ["calibration_test", "rejection_test", "conformal_test"]
    assert "fitted on validation data (60 videos)" in tables["calibration_test"].caption
    assert "at most 0.1" in tables["rejection_test"].caption
    record = evaluation.ledger["calibration"]
    low, high = record["log_loss_interval"][1]
    assert tables["calibration_test"].view["after (95 %)"][1] == (
        f"{record['log_loss'][1]:.3f} ({low:.2f} to {high:.2f})"
    )
    charts = {block.name: block for block in section.blocks if isinstance(block, Chart)}
    assert list(charts) == ["reliability_test", "risk_test"]
    for chart in charts.values():
        assert "datasets" not in chart.spec()
        assert all(source.startswith("best-test/") for source in chart.sources)
    assert charts["risk_test"].data["risk_test_tolerated"]["risk"].tolist() == [0.1]


def test_calibration_without_threshold_and_sets_has_one_table(evaluation):
    record = {**evaluation.ledger["calibration"], "rejection": None, "conformal": None}
    record |= {"is_fit_data": True, "log_loss_interval": [None, None]}
    plain = Evaluation(evaluation.root, {**evaluation.ledger, "calibration": record})
    (section,) = calibration_sections(plain)
    assert [block.name for block in section.blocks if isinstance(block, Table)] == ["calibration_test"]
    (note,) = [block for block in section.blocks if isinstance(block, Note)]
    assert note.text == "The calibration was fitted on these videos: its numbers are too good."
    assert len(section.blocks[-1].data) == 1


def test_uncalibrated_evaluation_has_no_section(evaluation):
    ledger = {name: value for name, value in evaluation.ledger.items() if name != "calibration"}
    assert calibration_sections(Evaluation(evaluation.root, ledger)) == []
