import pytest
from click.testing import CliRunner
from made_studies import write_evaluation, write_ladder

from evclip_ray.cli import main
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.ladder import ladder_charts
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.results import Ladder


@pytest.fixture
def ladder(tmp_path):
    return Ladder.load(write_ladder(tmp_path / "ladder"))


def titles(report):
    return [section.title for section in report.sections]


def test_rungs_stand_in_their_order_with_what_they_cost(ladder):
    frame = ladder_data.over_cost(ladder, "inference_gmac")
    assert list(frame["rung"]) == ["small", "middle", "large"]
    assert frame["cost"].is_monotonic_increasing
    assert "train_videos" not in ladder_data.costs_that_differ(ladder)


def test_a_fit_is_drawn_where_there_is_one_and_explained_where_not(ladder):
    assert set(ladder_data.fitted_curves(ladder, "inference_gmac")["form"]) == {"power law"}
    assert ladder_data.fitted_curves(ladder, "latency_seconds").empty
    statuses = list(ladder_data.fits_table(ladder)["status"])
    assert statuses == ["fitted", "not enough rungs: 3 of different cost, 4 are needed"]


def test_every_chart_of_a_ladder_is_there(ladder):
    names = {chart.name for chart in ladder_charts(ladder)}
    assert {
        "ladder_inference_gmac", "ladder_latency_seconds", "pareto_latency_seconds",
        "pareto_total_parameters",
        "gmac_by_part", "rung_trials", "importance", "transfer_optim_lr", "transfer_method_prompts",
    } <= names  # fmt: skip
    assert set(ladder.figures()) == names


def test_charts_of_one_kind_do_not_share_the_data_of_another_rung(ladder):
    report = ladder_report(ladder)
    charts = [chart for section in report.sections for chart in section.blocks if hasattr(chart, "draws")]
    names = [chart.name for chart in charts]
    assert len(names) == len(set(names))
    assert {"small_history", "large_history"} <= set(names)
    small, large = (next(c for c in charts if c.name == f"{rung}_history") for rung in ("small", "large"))
    assert not set(small.data) & set(large.data)


@pytest.mark.parametrize("made", [{"rungs": ("only",)}, {"failed": ("middle",)}, {"trials": 1}])
def test_few_rungs_failed_ones_and_few_trials_are_reported(tmp_path, made):
    root = write_ladder(tmp_path / "ladder", **made)
    found = CliRunner().invoke(main, ["report", str(root), "--cache", str(tmp_path / "cache")])
    assert found.exit_code == 0, found.output
    page = (root / "report.html").read_text()
    assert "not enough rungs" in page
    assert ("Rung middle failed: ConfigError: no such backbone" in page) == ("failed" in made)


def test_a_ladder_of_failed_rungs_says_so(tmp_path):
    root = write_ladder(tmp_path, failed=("small", "middle", "large"))
    report = ladder_report(Ladder.load(root))
    assert report.sections[0].blocks[0].loud
    assert ladder_charts(Ladder.load(root)) == []


def test_what_was_saved_of_each_rung_is_shown_under_its_name(tmp_path):
    root = write_ladder(tmp_path / "ladder", rungs=("RN50", "ViT-B-16"))
    for name in ("RN50", "ViT_B_16"):
        write_evaluation(root / "report" / f"best-val-{name}", masks=True)
    found = CliRunner().invoke(main, ["report", str(root), "--cache", str(tmp_path / "cache")])
    assert found.exit_code == 0, found.output
    for name in ("gains_RN50_val", "gains_ViT_B_16_val"):
        assert (root / "report" / f"{name}.csv").is_file()
    assert (root / "report.html").read_text().count("What the masks look at") == 2
