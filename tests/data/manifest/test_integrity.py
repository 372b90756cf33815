import numpy as np

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.masks import write_masks


def test_broken_videos_are_reported_with_their_reasons(tmp_path, write_video, make_manifest):
    options = {"g": "10", "sc_threshold": "0"}
    write_video(tmp_path / "good.mp4", options=options)
    write_video(tmp_path / "short.mp4", num_frames=10)
    cut = write_video(tmp_path / "cut.mkv", num_frames=90, options=options)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    tail = write_video(tmp_path / "tail.mp4", options={"bf": "0"}, muxing={"movflags": "faststart"})
    tail.write_bytes(tail.read_bytes()[:-60])
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    manifest = make_manifest(
        path=["good.mp4", "short.mp4", "cut.mkv", "tail.mp4", "noise.mp4", "absent.mp4"],
        label=["x"] * 6,
        start_seconds=[None, 5.0, None, None, None, None],
    )
    reports = list(verify_manifest(manifest, workers=2))
    assert [report.path for report in reports] == manifest.column("path")
    assert [report.row for report in reports] == list(range(6))
    assert [report.ok for report in reports] == [True, False, False, False, False, False]
    good, short, cut_off, no_tail, noise, absent = reports
    assert good.info.num_frames == 40
    assert "no frame is shown from 5.0" in short.reason
    assert "cut short: it ends at" in cut_off.reason
    assert "frames decode" in no_tail.reason
    assert "cannot be opened" in noise.reason
    assert noise.info is None
    assert "No such file" in absent.reason


def test_real_videos_are_intact(shared):
    from evclip_ray.data.manifest.manifest import read_manifest

    manifest = read_manifest(shared / "data" / "ut_interaction_set1" / "manifest.csv")
    assert [report.reason for report in verify_manifest(manifest, workers=2) if not report.ok] == []


def test_masks_that_do_not_fit_are_reported(tmp_path, write_video, make_manifest):
    for name in "abcdef":
        write_video(tmp_path / f"{name}.mp4", num_frames=4)
    write_masks(tmp_path / "right.npz", np.ones((4, 48, 64), bool))
    write_masks(tmp_path / "short.npz", np.ones((3, 48, 64), bool))
    write_masks(tmp_path / "square.npz", np.ones((4, 48, 48), bool))
    (tmp_path / "cut.npz").write_bytes(b"PK")
    manifest = make_manifest(
        path=[f"{name}.mp4" for name in "abcdef"],
        label=["x"] * 6,
        mask=["right.npz", "short.npz", "square.npz", "cut.npz", "absent.npz", None],
    )
    reports = list(verify_manifest(manifest, workers=2))
    assert all(report.ok for report in reports)
    right, short, square, cut, absent, without = [report.mask_reason for report in reports]
    assert right == without == ""
    assert "short.npz: holds the masks of 3 frames, but the video has 4" in short
    assert "48x48 pixels" in square
    assert "cannot be read" in cut
    assert "is not there" in absent
