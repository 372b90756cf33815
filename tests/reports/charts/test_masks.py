from made_studies import write_evaluation

from evclip_ray.artifacts import read_json, write_json
from evclip_ray.reports.charts.masks import mask_pictures


def test_mask_caption_has_the_covered_share(tmp_path):
    evaluation = write_evaluation(tmp_path, masks=True)
    (pictures,) = mask_pictures(evaluation, "val", split="validation")
    expected = "mask covers 31 % of the picture (pixels above 0.5), entropy 0.90 of 1; random"
    assert expected in pictures.items[0].facts


def test_mask_caption_of_an_old_record_has_the_mean(tmp_path):
    evaluation = write_evaluation(tmp_path, masks=True)
    record = read_json(evaluation / "masks" / "masks.json")
    for video in record["videos"]:
        del video["mask_coverage"]
    write_json(evaluation / "masks" / "masks.json", record)
    (pictures,) = mask_pictures(evaluation, "val", split="validation")
    assert "mask mean 0.50, entropy 0.90 of 1; random" in pictures.items[0].facts
