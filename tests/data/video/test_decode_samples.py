"""Frames of real files of many kinds equal those of a plain decode of every frame."""

import csv
import itertools

import numpy as np
import pytest

from evclip_ray.data.video.decode import Fitting, VideoError, decode_frames, decode_view, probe
from evclip_ray.data.video.view import ViewConfig

UNUSED = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def samples(shared):
    folder = shared / "data" / "decode_samples"
    if not folder.is_dir():
        pytest.skip("needs shared/data/decode_samples (real files)")
    with (folder / "expected.csv").open(newline="") as stream:
        return folder, list(csv.DictReader(stream))


def fitting_some(indices):
    """Return a function that converts the frames with these numbers, because all of them take 4 seconds."""
    fit, numbers = Fitting(ViewConfig(height=32, width=32)), itertools.count()
    return lambda frame: fit(frame) if next(numbers) in indices else UNUSED


def test_frames_of_real_files_equal_a_full_decode(samples, decoded):
    folder, rows = samples
    for row in rows:
        if row["decodes"] == "False":
            continue
        path = folder / row["file"]
        indices = np.random.default_rng(0).integers(0, int(row["frames"]), 6)
        whole = decoded(path, fitting_some(indices))
        assert probe(path).num_frames == int(row["frames"]) == len(whole), path
        assert (decode_frames(path, indices, height=32, width=32) == whole[indices]).all(), path


def test_probe_of_real_files_is_as_expected(samples):
    folder, rows = samples
    for row in rows:
        if row["decodes"] == "True":
            info = probe(folder / row["file"])
            size = (info.width, info.height) if info.rotation % 180 == 0 else (info.height, info.width)
            assert size == (int(row["width"]), int(row["height"])), row["file"]
            assert info.codec == row["codec"], row["file"]
            assert info.fps == pytest.approx(float(row["fps"]), abs=0.01), row["file"]


def test_corrupted_file_is_refused(samples):
    folder, rows = samples
    broken = [row["file"] for row in rows if row["decodes"] == "False"]
    assert broken
    for file in broken:
        with pytest.raises(VideoError, match="damaged in the middle"):
            decode_view(folder / file, view=ViewConfig())


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_recordings_are_upright(samples, decoded, degrees):
    folder, _ = samples
    path = folder / f"decord__tests__test_data__video_{degrees}.mov"
    coded = decoded(path, lambda frame: frame.to_ndarray(format="rgb24")).astype(int)
    info = probe(path)
    upright = decode_frames(path, [0, 1, 2], height=info.height, width=info.width)
    assert info.rotation == degrees
    assert np.abs(np.rot90(coded, -degrees // 90, axes=(1, 2)) - upright).mean() < 2
