import sys

import pytest
from click.testing import CliRunner
from made_studies import write_ladder, write_study

from evclip_ray.cli import main
from evclip_ray.config import ConfigError
from evclip_ray.reports.figures import ladder_figures, study_figures
from evclip_ray.results import Ladder, Study


@pytest.fixture
def without(monkeypatch):
    """Return a function after whose call a package cannot be imported."""

    def remove(package):
        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.setattr(sys, "meta_path", [_Refusal(package), *sys.meta_path])

    return remove


class _Refusal:
    """Import finder that fails for one package, as if it were not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_figures_contain_their_data(tmp_path):
    figures = study_figures(Study.load(write_study(tmp_path, trials=4)))
    assert {"history", "parallel", "slice_optim_lr", "curves_top1", "curves_loss"} <= set(figures)
    for name, figure in figures.items():
        datasets = figure.to_dict()["datasets"]
        assert all(len(rows) for rows in datasets.values()), name


@pytest.mark.parametrize("trials", [0, 2])
def test_study_without_scores_has_no_figures(tmp_path, trials):
    study = Study.load(write_study(tmp_path, trials=trials, states=["failed", "failed"]))
    assert study_figures(study) == {}


def test_figures_without_altair_name_the_extra(tmp_path, without):
    study = Study.load(write_study(tmp_path / "study", trials=2))
    ladder = Ladder.load(write_ladder(tmp_path / "ladder"))
    without("altair")
    for figures in (lambda: study_figures(study), lambda: ladder_figures(ladder)):
        with pytest.raises(ConfigError, match=r"'altair'.*evclip-ray\[report\]"):
            figures()


@pytest.mark.parametrize("package", ["altair", "jinja2", "vl_convert"])
def test_report_without_a_package_fails_in_one_line(tmp_path, without, package):
    study = write_study(tmp_path, trials=2)
    without(package)
    result = CliRunner().invoke(main, ["report", str(study)])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert f"'{package}'" in result.output
    assert "evclip-ray[report]" in result.output


def test_shift_without_matplotlib_fails_in_one_line(tmp_path, without):
    without("matplotlib")
    lists = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path in lists:
        path.write_text("path,label\n")
    result = CliRunner().invoke(main, ["shift", *map(str, lists), "--out", str(tmp_path / "shift")])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert "'matplotlib'" in result.output
