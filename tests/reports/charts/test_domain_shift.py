import numpy as np
import pytest
from PIL import Image

from evclip_ray.domain_shift.compare import Domain, compare, explain
from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS
from evclip_ray.reports.charts.domain_shift import draw_shift


def domain(name, offset, classes=4):
    random = np.random.default_rng(0)
    text = random.normal(size=(classes, 8))
    return Domain(
        name=name,
        paths=[f"{index}.mp4" for index in range(30)],
        units=[f"{index}.mp4" for index in range(30)],
        class_names=[f"class {index}" for index in range(classes)],
        labels=np.arange(30) % classes,
        visual={factor: random.random(30) + offset for factor in VISUAL_FACTORS},
        features=random.normal(offset, 1, (30, 8)),
        logits=random.normal(size=(30, classes)),
        text=text / np.linalg.norm(text, axis=1, keepdims=True),
    )


@pytest.mark.parametrize("count", [2, 3])
def test_draw_shift_writes_a_figure_per_factor(tmp_path, count):
    domains = [domain(f"set {index}", 0.4 * index) for index in range(count)]
    tables = compare(domains)
    predictions = [
        {"path": path, "label": "a", "adapted": "ab"[index % 2], "zero_shot": "aab"[index % 3]}
        for index, path in enumerate(domains[0].paths)
    ]
    tables["association"] = explain(domains, predictions)
    drawn = draw_shift(tmp_path, domains, tables)
    names = {path.stem for path in drawn}
    assert names == {*VISUAL_FACTORS, "effect_sizes", "features", "classes", "zero_shot", "association"}
    for path in drawn:
        with Image.open(path) as image:
            assert min(image.size) > 400
            # Background, text, and shades of at least one colour per set.
            assert len(image.convert("RGB").getcolors(2**20)) > 20


def test_draw_shift_with_one_class_and_no_predictions(tmp_path):
    """A figure of a single class may be empty, but must not fail."""
    domains = [domain("a", 0, classes=1), domain("b", 1, classes=1)]
    drawn = draw_shift(tmp_path, domains, compare(domains))
    assert "association" not in {path.stem for path in drawn}
    assert all(path.is_file() for path in drawn)


def test_draw_shift_with_correct_predictions_only(tmp_path):
    domains = [domain("a", 0), domain("b", 1)]
    tables = compare(domains)
    right = [{"path": path, "label": "a", "adapted": "a", "zero_shot": "a"} for path in domains[0].paths]
    tables["association"] = explain(domains, right)
    assert (tmp_path / "association.png") in draw_shift(tmp_path, domains, tables)
