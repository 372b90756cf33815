"""Contact sheets."""

import numpy as np
import pytest
from PIL import Image

from evclip_ray.deploy.predictions import ClassScore, Prediction, WindowPrediction
from evclip_ray.deploy.sheet import sheet_row, shown_window, write_sheet


def prediction(*probabilities, video="a.mp4", unknown=False):
    """Return a prediction with one window per probability of "kick"."""
    windows = tuple(
        WindowPrediction(
            float(start),
            start + 1.0,
            (ClassScore("kick", value), ClassScore("跳", 1 - value)),
            np.zeros(2, np.float32),
            is_unknown=unknown,
        )
        for start, value in enumerate(probabilities)
    )
    return Prediction(video, float(len(windows)), 25, windows, windows[0])


FRAMES = np.stack([np.full((72, 100, 3), 40 * value, np.uint8) for value in range(5)])
MASK = np.ones((32, 32), np.float32)


def test_sheet_has_one_row_per_video_and_a_column_for_masks(tmp_path):
    rows = [
        sheet_row(prediction(0.9), FRAMES, MASK),
        sheet_row(prediction(0.2, unknown=True, video="v" * 300), FRAMES, None),
    ]
    write_sheet(rows, tmp_path / "new" / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape == (6 + 2 * 134, 6 + 5 * 134 + 6 + 320 + 6, 3)
    # Frames 0, 1, 3 and 4 of five, and the mask on frame 2: grey 80 under the yellow of 1.
    assert [sheet[70, 60 + 134 * column, 0] for column in range(4)] == [0, 40, 120, 160]
    assert sheet[70, 60 + 134 * 4].tolist() == pytest.approx([166, 156, 58], abs=2)
    assert sheet[210, 60 + 134 * 4].tolist() == [255, 255, 255]
    for top in (6, 140):
        text = sheet[top : top + 128, 6 + 5 * 134 + 6 :]
        assert (text < 128).any()
    # Nothing is drawn beyond the border of the text.
    assert (sheet[:, -5:] == 255).all()


def test_sheet_without_masks_has_no_column_for_them(tmp_path):
    write_sheet([sheet_row(prediction(0.9), FRAMES[:1], None)], tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (6 + 4 * 134 + 6 + 320 + 6, 140)


def test_row_shows_the_window_of_the_best_class():
    found = prediction(0.6, 0.9, 0.7)
    assert shown_window(found) is found.windows[1]
    assert sheet_row(found, FRAMES, None).note == "frames: 1.0 to 2.0 s of 3.0 s"
    assert sheet_row(prediction(0.6), FRAMES, None).note == ""
