"""Tests of `evclip-ray manifest import` on the path_label importer: output, leaks and errors."""

import fsspec
import pytest
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.data.manifest.manifest import read_manifest


@pytest.fixture
def run(tmp_path):
    def run(*words):
        arguments = ["manifest", "import", "path_label", "--root", tmp_path / "videos", "--lists", tmp_path]
        return CliRunner().invoke(main, [*map(str, [*arguments, "--out", tmp_path / "m.csv", *words])])

    return run


@pytest.fixture
def lists(tmp_path):
    """Write videos and lists with an absent, a repeated, a mislabelled and an unlisted video."""
    (tmp_path / "videos").mkdir()
    for name in ("a_kick_f_cm_np1_ba_bad_0", "b_kick_f_cm_np1_ba_bad_0", "c_run_f_cm_np1_ba_bad_0", "extra"):
        (tmp_path / "videos" / f"{name}.avi").write_text(name)
    (tmp_path / "labels.csv").write_text("id,name\n0,kick\n1,run\n")
    (tmp_path / "train.txt").write_text(
        "a_kick_f_cm_np1_ba_bad_0.avi 0\nb_kick_f_cm_np1_ba_bad_0.avi 1\ngone.avi 0\n"
        "a_kick_f_cm_np1_ba_bad_0.avi 0\n"
    )
    (tmp_path / "test.txt").write_text("c_run_f_cm_np1_ba_bad_0.avi 1\n")
    return ["--set", "labels=labels.csv", "--set", "train=train.txt", "--set", "test=test.txt"]


def test_import_prints_counts_and_writes_existing_videos(run, lists, tmp_path):
    result = run(*lists)
    assert result.exit_code == 0, result.output
    everything = result.output.splitlines()
    assert everything[0] == "path_label: 3 videos, 2 classes"
    # The table of splits is between the first line and the problems.
    lines = ["", *everything[everything.index("missing      1") :]]
    assert lines[1:3] == ["missing      1", "  gone.avi"]
    assert lines[3:5] == ["unlisted     1", "  extra.avi"]
    assert lines[5] == "duplicates   1"
    assert lines[7] == "mislabelled  1"
    assert "train.txt, line 2" in lines[8]
    assert lines[9:11] == ["miscounted   0", "leaks        0"]
    assert lines[11].startswith(
        "selection    no validation videos in the lists. As published, all 2 training"
    )
    assert lines[12].endswith(f"--root {tmp_path / 'videos'} --set data.selection=last_epoch")
    assert len(read_manifest(tmp_path / "m.csv", root=tmp_path / "videos")) == 3


def test_list_with_validation_videos_needs_no_selection(run, lists, tmp_path):
    (tmp_path / "val.txt").write_text("extra.avi 1\n")
    result = run(*lists, "--set", "val=val.txt")
    assert result.exit_code == 0, result.output
    assert "selection" not in result.output


def test_leaks_are_refused_unless_allowed(run, lists, tmp_path):
    (tmp_path / "test.txt").write_text("a_kick_f_cm_np1_ba_bad_0.avi 0\n")
    result = run(*lists)
    assert result.exit_code == 1
    assert "2 leaks between splits (1 by path, 1 by group) reach 2 rows" in result.output
    assert not (tmp_path / "m.csv").exists()
    assert run(*lists, "--allow-leaks").exit_code == 0
    assert len(read_manifest(tmp_path / "m.csv", allow_leaks=True)) == 3


def test_equal_bytes_are_compared_unless_switched_off(run, lists, tmp_path):
    (tmp_path / "videos" / "c_run_f_cm_np1_ba_bad_0.avi").write_text("a_kick_f_cm_np1_ba_bad_0")
    assert "1 by content" in run(*lists).output
    assert run(*lists, "--no-compare-bytes").exit_code == 0


def test_errors_are_one_line(run, lists):
    result = run("--set", "labels=labels.csv", "--set", "trian=train.txt")
    assert result.exit_code == 1
    assert result.output == "Error: path_label has no option 'trian'; did you mean 'train'?\n"


def test_storage_videos_are_imported_and_verified_by_uri(lists, tmp_path):
    storage = fsspec.filesystem("memory")
    for path in (tmp_path / "videos").iterdir():
        storage.pipe(f"memory://command/{path.name}", path.read_bytes())
    given = ["path_label", "--root", "memory://command", "--lists", tmp_path, "--out", tmp_path / "m.csv"]
    result = CliRunner().invoke(main, [*map(str, ["manifest", "import", *given, *lists])])
    assert result.exit_code == 0, result.output
    assert "--root memory://command" in result.output
    storage.put(str(tmp_path / "m.csv"), "memory://command/m.csv")
    result = CliRunner().invoke(main, ["manifest", "verify", "memory://command/m.csv"])
    assert "3 videos, 2 labels, 3 broken" in result.output
    storage.rm("memory://command", recursive=True)
