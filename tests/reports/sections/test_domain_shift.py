import pytest
from click.testing import CliRunner
from made_studies import write_study
from PIL import Image

from evclip_ray.artifacts import ArtifactError, write_ledger
from evclip_ray.cli import main
from evclip_ray.reports.sections.domain_shift import shift_section


@pytest.fixture
def shift(tmp_path):
    folder = tmp_path / "day-night"
    write_ledger(folder, "shift", inputs={}, counts={"day": 9, "night": 8}, weights={"clip": "random"})
    (folder / "visual.csv").write_text("set_a,set_b,factor,delta\nday,NA,luminance,-0.5\n")
    Image.new("RGB", (8, 8)).save(folder / "luminance.png")
    return folder


def test_shift_section_has_tables_figures_and_conditions(shift):
    section = shift_section(shift)
    table, figures = section.blocks
    assert table.data.to_dict("records") == [
        {"set_a": "day", "set_b": "NA", "factor": "luminance", "delta": -0.5}
    ]
    assert list(figures.items[0].images) == ["luminance"]
    assert "9 videos of day, 8 videos of night" in section.brief
    assert "clip random" in section.brief


def test_report_includes_the_shift(tmp_path, shift):
    study = write_study(tmp_path / "mine", trials=2)
    command = ["report", str(study), "--shift", str(shift), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "data:image/png;base64," in (study / "report.html").read_text()
    assert "Domain shift: day-night" in (study / "report.md").read_text()


def test_folder_of_other_stage_is_refused(tmp_path):
    write_ledger(tmp_path, "study", inputs={})
    with pytest.raises(ArtifactError, match="must be a 'shift' folder"):
        shift_section(tmp_path)
