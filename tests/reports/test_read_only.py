"""Results in folders without write permission. It covers both `results` and the command `report`."""

import contextlib

import pytest
from click.testing import CliRunner
from made_studies import without_stages, write_evaluation, write_journal, write_ladder, write_study
from permissions import no_override

from evclip_ray.artifacts import ArtifactError
from evclip_ray.cli import main
from evclip_ray.reports.figures import study_figures
from evclip_ray.results import Ladder, Study
from evclip_ray.scaling.ladder_folder import LadderFolder


@contextlib.contextmanager
def read_only(folder):
    """Remove all write permissions of a folder, as for a reader who does not own it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with no_override():
            with pytest.raises(PermissionError):
                (folder / "probe").write_text("")
            yield
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def report(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_read_only_study_opens_and_has_figures(tmp_path):
    study = write_study(tmp_path / "mine", trials=60, seed=5)
    write_journal(study)
    with read_only(study):
        opened = Study.load(study)
        assert len(opened.trials) == 60
        assert opened.importance["importance"].notna().all()
        assert {"history", "importance"} <= set(study_figures(opened))


def test_read_only_study_is_reported_elsewhere(tmp_path):
    study = write_study(tmp_path / "mine", trials=3)
    write_evaluation(study / "report" / "best-val", masks=True)
    elsewhere = tmp_path / "elsewhere"
    with read_only(study):
        refused = report(study)
        assert refused.exit_code == 1
        assert "mine: cannot be written to (Permission denied); write elsewhere by --out" in refused.output
        assert len(without_stages(refused.output)) == 1
        result = report(study, "--out", elsewhere / "mine.html", "--cache", elsewhere / "cache")
        assert result.exit_code == 0, result.output
        assert f"{elsewhere / 'mine.html'} (" in result.output
        assert "The mask multiplies the normalised pixels" in (elsewhere / "mine.html").read_text()


def test_read_only_ladder_is_reported_elsewhere(tmp_path):
    ladder = write_ladder(tmp_path / "ladder")
    elsewhere = tmp_path / "elsewhere"
    with read_only(ladder):
        assert len(Ladder.load(ladder).trials) == 18
        result = report(ladder, "--out", elsewhere / "it.html", "--cache", elsewhere / "cache")
        assert result.exit_code == 0, result.output
        assert (elsewhere / "it" / "ladder.csv").is_file()
        # The command ends with the headline, and links lead back to the ladder.
        assert "Of 3 steps, " in result.output
        assert 'href="../ladder/rungs/' in (elsewhere / "it.html").read_text()
        with (
            pytest.raises(ArtifactError, match=r"ladder: cannot be written to .*choose another --out"),
            LadderFolder(ladder).lock(),
        ):
            pass
