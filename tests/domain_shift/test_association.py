import numpy as np
import pytest

from evclip_ray.domain_shift.association import associate, matched, predictors, read_predictions
from evclip_ray.metrics.mask_quality import COLUMNS


def rows(paths, adapted, zero_shot=None):
    return [
        {"path": path, "label": "a", "adapted": prediction, "zero_shot": other}
        for path, prediction, other in zip(paths, adapted, zero_shot or adapted, strict=True)
    ]


def test_videos_are_matched_by_path_in_any_order():
    assert matched(rows(["x", "y", "z"], "aaa"), ["z", "w", "x"]) == [(0, 2), (2, 0)]


def test_parts_match_in_order_or_are_skipped_if_incomplete():
    assert matched(rows(["x", "x", "y"], "aaa"), ["y", "x", "x"]) == [(0, 1), (1, 2), (2, 0)]
    assert matched(rows(["x", "x", "y"], "aaa"), ["y", "x"]) == [(2, 0)]


def test_decisive_factor_differs_from_an_irrelevant_one():
    random = np.random.default_rng(0)
    paths = [f"{number}.mp4" for number in range(60)]
    light = random.random(60)
    predictions = rows(paths, ["a" if value > 0.5 else "b" for value in light], ["a", "b"] * 30)
    factors = {"light": light, "other": random.random(60)}
    associations = associate(predictions, matched(predictions, paths), factors, paths, seed=0)
    areas = {(row.predictor, row.factor): row.area for row in associations}
    assert areas["adapted", "light"].value == 1
    assert areas["adapted", "light"].low > 0.85
    for nothing in (("adapted", "other"), ("zero_shot", "light"), ("zero_shot", "other")):
        assert areas[nothing].low < 0.5 < areas[nothing].high
    assert all(row.right + row.wrong == 60 for row in associations)


def test_zero_shot_predictions_alone_suffice(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("path,label,zero_shot\nx,a,a\ny,a,b\n")
    predictions = read_predictions(path)
    associations = associate(
        predictions, [(0, 0), (1, 1)], {"light": np.array([1.0, 0.0])}, ["x", "y"], seed=0
    )
    assert [(row.predictor, row.right, row.area.value) for row in associations] == [("zero_shot", 1, 1.0)]


def test_mask_quality_and_group_are_no_predictions(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(",".join(["path,label,zero_shot,adapted", *COLUMNS, "group"]) + "\nx,a,a,b,0.4,0.2,1,0\n")
    assert predictors(read_predictions(path)) == ["zero_shot", "adapted"]


def test_file_without_predictions_is_refused(tmp_path):
    path = tmp_path / "predictions.csv"
    for text, missing in (("path,label\nx,a\n", "an answer"), ("path,zero_shot\nx,a\n", "label")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"missing: {missing}\. Give the predictions\.csv"):
            read_predictions(path)
    path.write_text("path,label,zero_shot\n")
    with pytest.raises(ValueError, match="must have rows"):
        read_predictions(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_predictions(path)
