"""Results that one may read and not write: the kernel itself refuses, to root too."""

import contextlib
import ctypes
import os

import pytest
from click.testing import CliRunner
from made_studies import write_evaluation, write_journal, write_ladder, write_study

from evclip_ray.artifacts import ArtifactError
from evclip_ray.cli import main
from evclip_ray.results import Ladder, Study
from evclip_ray.scaling.ladder_folder import LadderFolder

CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1


@contextlib.contextmanager
def no_override():
    """This thread without the right to write where the mode forbids it (capabilities(7)).

    Not another user: who that is may not read the packages that this process has yet to import.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable: of the lower 32 capabilities, then of the upper.
    held = (ctypes.c_uint32 * 6)()

    def call(name, sets):
        if getattr(libc, name)(header, sets) != 0:
            raise OSError(ctypes.get_errno(), f"{name} refused")

    call("capget", held)
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~(1 << CAP_DAC_OVERRIDE)
    call("capset", fewer)
    try:
        yield
    finally:
        call("capset", held)


@contextlib.contextmanager
def read_only(folder):
    """`folder` as one has it who may read it and no more."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with no_override() if os.geteuid() == 0 else contextlib.nullcontext():
            with pytest.raises(PermissionError):
                (folder / "probe").write_text("")
            yield
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def report(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_a_study_is_opened_and_drawn_by_who_may_only_read_it(tmp_path):
    study = write_study(tmp_path / "mine", trials=9)
    write_journal(study)
    with read_only(study):
        opened = Study.load(study)
        assert len(opened.trials) == 9
        assert opened.importance["importance"].notna().all()
        assert {"history", "importance"} <= set(opened.figures())


def test_a_report_of_it_goes_elsewhere_and_says_where(tmp_path):
    study = write_study(tmp_path / "mine", trials=3)
    write_evaluation(study / "report" / "best-val", masks=True)
    elsewhere = tmp_path / "elsewhere"
    with read_only(study):
        refused = report(study)
        assert refused.exit_code == 1
        assert "mine: cannot be written to (Permission denied); write elsewhere by --out" in refused.output
        assert len(refused.output.strip().splitlines()) == 1
        found = report(study, "--out", elsewhere / "mine.html", "--cache", elsewhere / "cache")
        assert found.exit_code == 0, found.output
        assert f"{elsewhere / 'mine.html'} (" in found.output
        assert "What the masks look at" in (elsewhere / "mine.html").read_text()


def test_a_ladder_is_opened_and_reported_elsewhere_too(tmp_path):
    ladder = write_ladder(tmp_path / "ladder")
    elsewhere = tmp_path / "elsewhere"
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
