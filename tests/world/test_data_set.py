import errno
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError, file_digest, read_ledger
from evclip_ray.data.manifest.leaks import find_leaks
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.masks import open_masks
from evclip_ray.data.video.decode import decode_view, probe
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.training.experiment import DataConfig
from evclip_ray.training.video_lists import resolve_manifest
from evclip_ray.world import data_set
from evclip_ray.world.data_set import list_videos, world_folder, write_world
from evclip_ray.world.scenes import draw_scene
from evclip_ray.world.settings import WorldConfig

SMALL = WorldConfig(classes=4, train_videos=2, val_videos=1, test_videos=1, size=64, num_frames=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "small"
    write_world(path, SMALL)
    return path


def files_of(folder):
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def test_manifest_has_splits_groups_and_masks(folder):
    manifest = read_manifest(folder / "manifest.csv")
    assert manifest.classes == tuple(sorted(SMALL.class_names()))
    assert {split: len(manifest.in_split(split)) for split in manifest.splits()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }
    assert not find_leaks(manifest)
    info = probe(folder / manifest.column("path")[0])
    assert (info.num_frames, info.width, info.height, info.codec) == (8, 64, 64, "h264")
    for row in manifest.rows():
        open_masks(folder / row["mask"]).require_fit(info)
    assert read_ledger(folder, "world")["counts"] == {"videos": 16}


def test_files_show_the_scene_of_their_seeds(folder):
    video = list_videos(SMALL)[0]
    scene = draw_scene(video.label, seed=video.seed, look_seed=video.look_seed, num_frames=8, size=64)
    frames = decode_view(folder / video.path, view=ViewConfig(num_frames=8, height=64, width=64))
    assert np.abs(frames.astype(float) - scene.frames).mean() < 6
    masks = open_masks(folder / video.mask).read(range(8))
    assert (masks == scene.actor_mask).all()


def test_figure_acts_in_one_split_and_in_different_classes():
    owners, actions = defaultdict(set), defaultdict(list)
    for video in list_videos(WorldConfig(domain="long_tail", classes=10)):
        owners[video.group].add((video.split, video.look_seed))
        actions[video.group].append(video.label)
    assert all(len(splits) == 1 for splits in owners.values())
    assert len({look for splits in owners.values() for _, look in splits}) == len(owners)
    assert all(len(set(labels)) == len(labels) <= 4 for labels in actions.values())
    assert max(len(labels) for labels in actions.values()) == 4


def test_domains_share_figures_and_motions():
    plain, dark = (list_videos(WorldConfig(domain=name)) for name in ("plain", "dark"))
    assert plain == dark


def test_existing_videos_are_not_written_again(folder):
    before = {path: path.stat().st_mtime_ns for path in files_of(folder).values()}
    assert write_world(folder, SMALL) == folder / "manifest.csv"
    assert {path: path.stat().st_mtime_ns for path in files_of(folder).values()} == before
    with pytest.raises(ArtifactError, match="contains other videos"):
        write_world(folder, SMALL.model_copy(update={"seed": 1}))


def test_incomplete_folder_is_written_again(folder, tmp_path, monkeypatch):
    original, written = data_set._write_video, []

    def write_three(*arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments)
        original(*arguments)

    monkeypatch.setattr(data_set, "_write_video", write_three)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "again", SMALL)
    monkeypatch.setattr(data_set, "_write_video", original)
    (tmp_path / "again" / list_videos(SMALL)[0].path).write_bytes(b"half a video")
    write_world(tmp_path / "again", SMALL)
    complete, again = files_of(folder), files_of(tmp_path / "again")
    assert complete.keys() == again.keys()
    # The ledger has the time.
    assert all(
        file_digest(complete[name]) == file_digest(again[name])
        for name in complete.keys() - {Path("ledger.json")}
    )


def test_full_disk_names_needed_and_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr(data_set.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**10))
    with pytest.raises(OSError, match=r"no space for 16 videos.*MiB are needed, 0 MiB are free") as caught:
        write_world(tmp_path / "full", SMALL)
    assert caught.value.errno == errno.ENOSPC


def test_progress_counts_every_video(tmp_path, monkeypatch):
    monkeypatch.setattr(data_set, "_write_video", lambda *arguments: None)
    reported = []
    write_world(tmp_path / "videos", SMALL, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(done, 16) for done in range(1, 17)]


def test_setting_is_a_source_of_videos(folder, tmp_path):
    data = DataConfig(world=SMALL)
    target = world_folder(SMALL, tmp_path)
    target.parent.mkdir()
    target.symlink_to(folder)
    assert resolve_manifest(data, cache=tmp_path).rows() == read_manifest(folder / "manifest.csv").rows()
    assert target.name.startswith("plain-")


def test_folder_depends_on_every_setting(tmp_path):
    changes = {"domain": "dark", "dial": 0.5, "classes": 5, "seed": 1, "size": 66, "num_frames": 9}
    others = {
        world_folder(SMALL.model_copy(update={name: value}), tmp_path) for name, value in changes.items()
    }
    assert len(others | {world_folder(SMALL, tmp_path)}) == 7
