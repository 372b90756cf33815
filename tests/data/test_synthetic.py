import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError, file_digest, read_ledger
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.synthetic import ACTIONS, write_synthetic
from evclip_ray.data.video.decode import decode_view, probe
from evclip_ray.data.video.view import ViewConfig

SMALL = {"videos_per_class": 5, "size": 64, "num_frames": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(path, **SMALL)
    return path


@pytest.fixture(scope="module")
def views(folder):
    """Return action -> (videos, T, H, W, 3) float."""
    manifest = read_manifest(folder / "manifest.csv")
    view = ViewConfig(num_frames=16, height=64, width=64)
    views = {action: [] for action in ACTIONS}
    for row in manifest.rows():
        views[row["label"]].append(decode_view(folder / row["path"], view=view))
    return {action: np.stack(videos).astype(float) for action, videos in views.items()}


def test_actions_are_balanced_and_groups_stay_in_one_split(folder):
    manifest = read_manifest(folder / "manifest.csv")
    assert manifest.classes == tuple(sorted(ACTIONS))
    assert len(manifest) == 5 * len(ACTIONS)
    assert manifest.splits() == ("train", "val", "test")
    info = probe(folder / manifest.column("path")[0])
    assert (info.num_frames, info.width, info.height, info.codec) == (16, 64, 64, "h264")
    assert read_ledger(folder, "synthetic")["counts"] == {"videos": 30}


def test_existing_videos_are_not_written_again(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert write_synthetic(folder, **SMALL) == folder / "manifest.csv"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(ArtifactError, match="contains other synthetic videos"):
        write_synthetic(folder, **SMALL, seed=1)


def test_seed_determines_the_files(folder, tmp_path):
    write_synthetic(tmp_path / "again", **SMALL)
    write_synthetic(tmp_path / "other", **SMALL, seed=1)
    name = "spinning_around/002.mp4"
    assert file_digest(tmp_path / "again" / name) == file_digest(folder / name)
    assert file_digest(tmp_path / "other" / name) != file_digest(folder / name)
    manifests = [read_manifest(path / "manifest.csv").digest() for path in (folder, tmp_path / "again")]
    assert manifests[0] == manifests[1]


def test_only_standing_still_does_not_move(views):
    change = {action: np.abs(np.diff(v, axis=1)).mean(axis=(1, 2, 3, 4)) for action, v in views.items()}
    still = change.pop("standing still")
    for action, moving in change.items():
        assert moving.min() > still.max(), action


def test_single_frame_does_not_reveal_the_action(views):
    """Check that the colours of single frames differ far more between groups than between actions."""
    middle = np.stack([videos[:, 8].mean(axis=(1, 2)) for videos in views.values()])
    between_actions = middle.mean(axis=1).std(axis=0)
    between_groups = middle.mean(axis=0).std(axis=0)
    assert (between_groups > 2 * between_actions).all()


def test_invalid_sizes_are_refused(tmp_path):
    for wrong in ({"videos_per_class": 2}, {"size": 33}, {"num_frames": 4}):
        with pytest.raises(ValueError, match="synthetic videos need"):
            write_synthetic(tmp_path, **wrong)
