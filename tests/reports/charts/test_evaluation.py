import pandas as pd

from evclip_ray.reports.charts.evaluation import confusion_chart, gains_chart

LIMBS = [
    f"bending the {side} {limb} slowly to one side" for side in ("left", "right") for limb in ("arm", "leg")
]


def confusion(classes):
    counts = {name: [int(name == true) for true in classes] for name in classes}
    return confusion_chart("val", pd.DataFrame({"true \\ predicted": classes, **counts}), ())


def test_confusion_matrix_is_square_and_scrolls_when_narrow():
    few, many = (confusion([f"class {index}" for index in range(number)]) for number in (3, 60))
    assert few.per_row == 2
    assert many.per_row == 1
    assert few.square[0] < many.square[0] <= 720
    assert few.width < 360 < many.width


def test_confusion_labels_tell_long_names_apart():
    axes = [layer["encoding"] for layer in confusion(LIMBS).spec()["layer"]]
    for channel in ("x", "y"):
        expression = axes[0][channel]["axis"]["labelExpr"]
        labels = [part.split('"')[1] for part in expression.split('": ')[1:]]
        assert len(set(labels)) == len(LIMBS), channel


def test_gains_have_a_legend_of_both_series():
    rows = {"class": ["hug"], "videos": [4], "zero_shot": [0.25], "adapted": [0.75]}
    chart = gains_chart("val", pd.DataFrame(rows), ())
    legends = [layer["encoding"].get("color", {}).get("legend") for layer in chart.spec()["layer"]]
    assert {"values": ["adapted (95 %)", "zero-shot CLIP"], "title": None, "symbolOpacity": 1} in [
        legend and {**legend, "values": sorted(legend["values"])} for legend in legends
    ]
