import json

import pandas as pd
import pytest
from click.testing import CliRunner
from made_studies import write_evaluation, write_ladder

from evclip_ray.cli import main
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.ladder import ladder_charts
from evclip_ray.reports.document import Chart
from evclip_ray.reports.figures import ladder_figures
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.results import Ladder


@pytest.fixture
def ladder(tmp_path):
    return Ladder.load(write_ladder(tmp_path / "ladder"))


def test_over_cost_orders_steps_by_cost(ladder):
    steps = ladder_data.over_cost(ladder, "inference_gmac")
    assert list(steps["rung"]) == ["small", "middle", "large"]
    assert steps["cost"].is_monotonic_increasing
    assert "train_videos" not in ladder_data.costs_that_differ(ladder)


def test_best_score_of_a_ladder_is_also_shown_corrected(ladder):
    facts = ladder_report(ladder).facts
    assert any(name.startswith("best of") and name.endswith("optimistic") for name in facts)
    assert "corrected for the choice" in facts


def test_missing_fit_has_a_reason(ladder):
    assert set(ladder_data.fitted_curves(ladder, "inference_gmac")["form"]) == {"power law"}
    assert ladder_data.fitted_curves(ladder, "latency_seconds").empty
    statuses = list(ladder_data.fits_table(ladder)["status"])
    assert statuses == ["fitted", "not enough steps: 3 of different cost, 4 are needed"]


def test_ladder_has_all_charts(ladder):
    names = {chart.name for chart in ladder_charts(ladder)}
    over_cost = {"ladder_inference_gmac", "ladder_latency_seconds"}
    fronts = {"pareto_latency_seconds", "pareto_total_parameters"}
    others = {"gmac_by_part", "rung_trials", "importance", "transfer_optim_lr", "transfer_method_prompts"}
    assert over_cost | fronts | others <= names
    assert set(ladder_figures(ladder)) == names


def test_importance_within_noise_is_not_drawn(ladder):
    path = ladder.root / "importance.csv"
    rows = pd.read_csv(path)
    rows.assign(status=["within noise", "ok", "within noise"]).to_csv(path, index=False)
    assert list(ladder_data.importance(ladder)["rung"]) == ["middle"]
    rows.assign(status="within noise").to_csv(path, index=False)
    assert "importance" not in {chart.name for chart in ladder_charts(ladder)}
    assert "small: within noise; middle: within noise" in str(ladder_report(ladder).sections)
    rows.drop(columns="null").to_csv(path, index=False)
    assert "written by an earlier version, without its noise" in str(ladder_report(ladder).sections)


def test_unequal_searches_are_reported(ladder):
    assert "different numbers of trials" not in str(ladder_report(ladder).sections)
    path = ladder.root / "ladder.csv"
    rows = pd.read_csv(path)
    rows.assign(trials=[6, 6, 8], warm_start=["", "small", "middle"]).to_csv(path, index=False)
    text = str(ladder_report(ladder).sections)
    assert "different numbers of trials (small 6, middle 6, large 8)" in text
    assert "An earlier version started middle, large from the best points" in text
    rows.assign(trials=[6, 6, 8], shared_points=[0, 0, 2]).to_csv(path, index=False)
    assert "different numbers of trials" not in str(ladder_report(ladder).sections)


def test_charts_of_steps_have_their_own_data(ladder):
    report = ladder_report(ladder)
    charts = [chart for section in report.sections for chart in section.blocks if isinstance(chart, Chart)]
    names = [chart.name for chart in charts]
    assert len(names) == len(set(names))
    assert {"small_history", "large_history"} <= set(names)
    small, large = (next(c for c in charts if c.name == f"{step}_history") for step in ("small", "large"))
    assert not set(small.data) & set(large.data)


@pytest.mark.parametrize("facts", [{"steps": ("only",)}, {"failed": ("middle",)}, {"trials": 1}])
def test_incomplete_ladder_is_reported(tmp_path, facts):
    root = write_ladder(tmp_path / "ladder", **facts)
    result = CliRunner().invoke(main, ["report", str(root), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    page = (root / "report.html").read_text()
    assert "not enough steps" in page
    assert ("Step middle failed: ConfigError: no such backbone" in page) == ("failed" in facts)


def test_speed_of_each_measured_step_is_with_the_costs(ladder):
    for history in (ladder.root / "rungs" / "small").glob("trials/*/history.jsonl"):
        lines = [{**json.loads(line), "wait_share": 0.25} for line in history.read_text().splitlines()]
        history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (costs,) = (section for section in ladder_report(ladder).sections if section.name == "costs")
    table = costs.blocks[-1]
    assert table.view.to_dict("records") == [
        {
            "step": "small",
            "of the matrix rate": "–",
            "of the bare model's videos/s": "–",
            "waiting for input": "25 %",
        }
    ]


def test_ladder_of_failed_steps_has_a_warning(tmp_path):
    root = write_ladder(tmp_path, failed=("small", "middle", "large"))
    report = ladder_report(Ladder.load(root))
    assert report.sections[0].blocks[0].loud
    assert ladder_charts(Ladder.load(root)) == []


def test_earlier_masks_of_each_step_are_shown(tmp_path):
    root = write_ladder(tmp_path / "ladder", steps=("RN50", "ViT-B-16"))
    for name in ("RN50", "ViT_B_16"):
        write_evaluation(root / "report" / f"best-val-{name}", masks=True)
    result = CliRunner().invoke(main, ["report", str(root), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    for name in ("gains_RN50_val", "gains_ViT_B_16_val"):
        assert (root / "report" / f"{name}.csv").is_file()
    page = (root / "report.html").read_text()
    assert page.count("The mask multiplies") == 2
    for step in ("RN50", "ViT-B-16"):
        assert f">{step}: validation split</a>" in page
