import base64
import io

import numpy as np
from made_studies import write_evaluation
from PIL import Image

from evclip_ray.artifacts import read_json, write_json
from evclip_ray.reports.charts.masks import heat_map, mask_pictures


def test_mask_caption_has_the_covered_share(tmp_path):
    evaluation = write_evaluation(tmp_path, masks=True)
    (pictures,) = mask_pictures(evaluation, "val", split="validation")
    expected = "mask covers 31 % of the picture (pixels above 0.5), entropy 0.90 of 1; random"
    assert expected in pictures.items[0].more_facts


def test_mask_caption_of_an_old_record_has_the_mean(tmp_path):
    evaluation = write_evaluation(tmp_path, masks=True)
    record = read_json(evaluation / "masks" / "masks.json")
    for video in record["videos"]:
        del video["mask_coverage"]
    write_json(evaluation / "masks" / "masks.json", record)
    (pictures,) = mask_pictures(evaluation, "val", split="validation")
    assert "mask mean 0.50, entropy 0.90 of 1; random" in pictures.items[0].more_facts


def with_true_masks(evaluation, qualities):
    """Add true masks of a square to the saved masks, and a quality or a reason to each video."""
    arrays = evaluation / "masks" / "masks.npz"
    with np.load(arrays) as saved:
        kept = dict(saved)
    kept["true_masks"] = np.zeros(kept["frames"].shape[:4], np.uint8)
    kept["true_masks"][:, :, 4:12, 4:12] = 255
    np.savez_compressed(arrays, **kept)
    record = read_json(evaluation / "masks" / "masks.json")
    for video, quality in zip(record["videos"], qualities, strict=True):
        if quality is not None:
            video["mask_quality"] = quality
    write_json(evaluation / "masks" / "masks.json", record)


def test_true_mask_and_its_numbers_are_shown(tmp_path):
    evaluation = write_evaluation(tmp_path, masks=True)
    quality = {"average_precision": 0.512, "base_share": 0.25, "pointing_game": None}
    with_true_masks(evaluation, [quality, "masks/b.npz: is not there"])
    (pictures,) = mask_pictures(evaluation, "val", split="validation")
    known, unknown = pictures.items
    expected = "average precision of the mask 0.512 (the figure covers 0.25), pointing game –"
    assert expected in known.more_facts
    assert "no true mask: masks/b.npz: is not there" in unknown.more_facts
    for item in (known, unknown):
        assert list(item.images) == ["frame", "mask", "masked frame"]
        assert {picture_size(image) for image in item.images.values()} == {(16, 16)}
        # Four frames of 16 pixels with gaps of 2.
        assert picture_size(item.more_images["all 4 frames"]) == (70, 16)
    assert [len(item.more_images) for item in (known, unknown)] == [2, 1]


def picture_size(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size


def test_heat_map_is_bright_where_the_mask_is_and_outlined():
    mask = np.zeros((48, 48), np.float32)
    mask[:, 24:] = 1
    figure = np.zeros((48, 48), np.uint8)
    figure[10:20, 30:40] = 255
    picture = heat_map(np.full((48, 48, 3), 128, np.uint8), mask, figure)
    assert picture[40, 40].sum() > picture[40, 8].sum()
    assert (picture[10, 30:40] == 255).all()
    assert (picture[15, 30] == 255).all()
    assert (picture[15, 35] != 255).any()
    # A figure that touches the border is outlined there too.
    figure[:] = 255
    assert (heat_map(np.zeros((48, 48, 3), np.uint8), mask, figure)[0] == 255).all()
