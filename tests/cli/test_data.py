import csv
import shutil
from pathlib import Path

import numpy as np

from evclip_ray.data.masks import write_masks


def test_verify_lists_broken_videos_and_exits_with_1(call, tiny_manifest, tmp_path):
    intact = call("manifest", "verify", tiny_manifest)
    assert intact.exit_code == 0
    assert "30 videos, 6 labels, 0 broken" in intact.output
    with tiny_manifest.open() as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    shutil.copytree(tiny_manifest.parent, tmp_path / "copy")
    (tmp_path / "copy" / paths[2]).write_bytes(b"not a video")
    (tmp_path / "copy" / paths[4]).unlink()
    broken = call("manifest", "verify", tmp_path / "copy" / "manifest.csv")
    assert broken.exit_code == 1
    assert f"broken  {paths[2]}: " in broken.output
    assert f"broken  {paths[4]}: " in broken.output
    assert "30 videos, 6 labels, 2 broken" in broken.output


def test_verify_prints_splits_groups_and_classes(call, tiny_manifest):
    result = call("--verbose", "manifest", "verify", tiny_manifest)
    rows = [line.split() for line in result.output.splitlines()]
    # 5 groups with one video of each of 6 classes: videos, share, groups, classes, shares of a class.
    assert ["train", "18", "0.6", "3", "6", "0.6", "0.6"] in rows
    assert ["growing", "bigger", "3", "1", "1"] in rows


def test_verify_lists_labels_that_are_the_same(call, tiny_manifest, tmp_path):
    with tiny_manifest.open() as stream:
        rows = list(csv.DictReader(stream))[:3]
    lines = [f"{row['path']};{label}" for row, label in zip(rows, ("Kick", "kick", "hug"), strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["Video;Kind", *lines, ""]))
    arguments = (tmp_path / "list.csv", "--root", tiny_manifest.parent, "--columns", "label=Kind")
    result = call("manifest", "verify", *arguments)
    assert result.exit_code == 1
    assert "'kick' (1 video) = 'Kick' (1 video)" in result.output
    assert "3 videos, 3 labels, 0 broken" in result.output


def test_verify_names_a_root_before_it_decodes(call, tiny_manifest, tmp_path):
    shutil.copytree(tiny_manifest.parent, tmp_path / "videos")
    (tmp_path / "lists").mkdir()
    (tmp_path / "videos" / "manifest.csv").rename(tmp_path / "lists" / "manifest.csv")
    result = call("manifest", "verify", tmp_path / "lists" / "manifest.csv")
    assert result.exit_code == 1
    assert "30 of 30 videos are missing" in result.output
    assert f"--root {tmp_path / 'videos'}" in result.output
    assert "broken" not in result.output


def test_same_labels_are_listed_where_files_are_missing(call, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.mp4,Kick\nb.mp4,kick\n")
    result = call("manifest", "verify", tmp_path / "list.csv")
    assert result.exit_code == 1
    assert "'kick' (1 video) = 'Kick' (1 video)" in result.output
    assert "2 of 2 videos are missing" in result.output


def test_class_names_option_names_labels(call, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.mp4,0\nb.mp4,1\n")
    (tmp_path / "names.csv").write_text("id,name\n0,shake hands\n1,hug\n")
    bare = call("manifest", "verify", tmp_path / "list.csv")
    named = call("manifest", "verify", tmp_path / "list.csv", "--class-names", tmp_path / "names.csv")
    assert "shake hands" not in bare.output
    assert "shake hands" in named.output


def test_unknown_column_option_is_refused(call, tiny_manifest):
    result = call("manifest", "verify", tiny_manifest, "--columns", "lable=kind")
    assert result.exit_code != 0
    assert "must be COLUMN=NAME, where COLUMN is path, label, split or group" in str(result.output)


def test_shards_prints_its_folder_and_can_run_again(call, tiny_manifest, local_ray):
    settings = ("--set", "view.num_frames=2", "--set", "view.height=32")
    arguments = ("shards", "--data", tiny_manifest, "--split", "val", *settings)
    first, second = call(*arguments), call(*arguments)
    assert first.exit_code == second.exit_code == 0
    assert "val: 6 videos, 0 skipped" in first.output
    folder = Path(second.output.split(" in ")[-1].strip())
    assert (folder / "ledger.json").is_file()


def test_verify_counts_broken_masks(call, tiny_manifest, tmp_path):
    with tiny_manifest.open() as stream:
        first, second = list(csv.DictReader(stream))[:2]
    write_masks(tmp_path / "short.npz", np.ones((3, 64, 64), bool))
    write_masks(tmp_path / "right.npz", np.ones((12, 64, 64), bool))
    rows = [(first, "short.npz"), (second, "right.npz")]
    lines = [f"{row['path']},{row['label']},file://{tmp_path / mask}" for row, mask in rows]
    listed = tmp_path / "manifest.csv"
    listed.write_text("\n".join(["path,label,mask", *lines, ""]))
    result = call("manifest", "verify", listed, "--root", tiny_manifest.parent)
    assert result.exit_code == 1
    assert f"broken mask  row 1, {first['path']}: " in result.output
    assert "masks for 2 of 2 videos, 1 broken" in result.output
