"""Results that one may read and not write: the kernel itself refuses, to root too, who becomes nobody."""

import contextlib
import importlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_studies import write_evaluation, write_journal, write_ladder, write_study

from evclip_ray.artifacts import ArtifactError, provenance
from evclip_ray.cli import main
from evclip_ray.reports.results import Ladder, Study
from evclip_ray.scaling.folder import LadderFolder

NOBODY = 65534


@pytest.fixture
def shelf():
    """A folder that anybody may read; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="evclip-shelf-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def read_only(folder):
    """`folder` as one has it who may read it and no more."""
    # Looked up once in a process, so before it may see less.
    importlib.import_module("evclip_ray.reports.compose")
    provenance()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            (folder / "probe").write_text("")
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def report(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_a_study_is_opened_and_drawn_by_who_may_only_read_it(shelf):
    study = write_study(shelf / "mine", trials=9)
    write_journal(study)
    with read_only(study):
        opened = Study.load(study)
        assert len(opened.trials) == 9
        assert opened.importance["importance"].notna().all()
        assert {"history", "importance"} <= set(opened.figures())


def test_a_report_of_it_goes_elsewhere_and_says_where(shelf):
    study = write_study(shelf / "mine", trials=3)
    write_evaluation(study / "report" / "best-val", masks=True)
    elsewhere = shelf / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    with read_only(study):
        refused = report(study)
        assert refused.exit_code == 1
        assert "mine: cannot be written to (Permission denied); write elsewhere by --out" in refused.output
        assert len(refused.output.strip().splitlines()) == 1
        found = report(study, "--out", elsewhere / "mine.html", "--cache", elsewhere / "cache")
        assert found.exit_code == 0, found.output
        assert f"{elsewhere / 'mine.html'} (" in found.output
        assert "What the masks look at" in (elsewhere / "mine.html").read_text()


def test_a_ladder_is_opened_and_reported_elsewhere_too(shelf):
    ladder = write_ladder(shelf / "ladder")
    elsewhere = shelf / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    with read_only(ladder):
        assert len(Ladder.load(ladder).trials) == 18
        found = report(ladder, "--out", elsewhere / "it.html", "--cache", elsewhere / "cache")
        assert found.exit_code == 0, found.output
        assert (elsewhere / "it" / "ladder.csv").is_file()
        with (
            pytest.raises(ArtifactError, match=r"ladder: cannot be written to .*choose another --out"),
            LadderFolder(ladder).lock(),
        ):
            pass
