import csv
import json

import pytest
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.evaluation.domain_shift import plan_sets

SETTINGS = [
    *("--set", "backbone.name=debug", "--set", "backbone.pretrained=random"),
    *("--set", "view.num_frames=2", "--set", "view.height=64", "--set", "view.width=64"),
]


@pytest.fixture
def shift(tiny_cache, tmp_path, local_ray):
    def run(*arguments):
        whole = ["shift", *SETTINGS, "--out", str(tmp_path / "out"), *map(str, arguments)]
        return CliRunner().invoke(main, whole, env={"EVCLIP_RAY_CACHE": str(tiny_cache)})

    return run


def test_two_sets_are_compared_with_predictions(shift, tiny_manifest, tmp_path):
    with tiny_manifest.open() as stream:
        test = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    with (tmp_path / "predictions.csv").open("w") as stream:
        stream.write("path,label,adapted,zero_shot\n")
        stream.writelines(f"{row['path']},a,{'ab'[index % 2]},a\n" for index, row in enumerate(test))
    predictions = ("--predictions", tmp_path / "predictions.csv")
    arguments = (tiny_manifest, tiny_manifest, "--split", "train", "--split", "test", *predictions)
    result = shift(*arguments)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    sizes = ("18 of 18 videos of the 'train' split", "6 of 6 videos of the 'test' split")
    measures = ("Cliff's delta", "classifier_error", "above chance", "class_similarity")
    for words in ("RANDOM WEIGHTS", *sizes, *measures, str(out)):
        assert words in result.output
    ledger = json.loads((out / "ledger.json").read_text())
    assert [videos["split"] for videos in ledger["inputs"]["sets"]] == ["train", "test"]
    assert sum(ledger["counts"].values()) == 24
    with (out / "association.csv").open() as stream:
        adapted = next(row for row in csv.DictReader(stream) if row["predictor"] == "adapted")
    assert (adapted["right"], adapted["wrong"]) == ("3", "3")
    assert len(list(out.glob("*.png"))) == 11
    before = (out / "visual.csv").read_bytes()
    assert shift(*arguments).exit_code == 0
    assert (out / "visual.csv").read_bytes() == before


def test_large_set_is_sampled(shift, tiny_manifest, tmp_path):
    result = shift(tiny_manifest, tiny_manifest, "--videos", "7")
    assert result.exit_code == 0, result.output
    assert "7 of 18 videos of the 'train' split" in result.output
    with (tmp_path / "out" / "videos.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 14


def test_list_without_splits_is_read_whole(tiny_manifest, tmp_path):
    with tiny_manifest.open() as stream:
        lines = [f"{row['path']},{row['label']}" for row in csv.DictReader(stream)]
    (tmp_path / "night.csv").write_text("\n".join(["path,label", *lines, ""]))
    names = [str(tmp_path / "night.csv"), str(tiny_manifest)]
    overrides = [{"data.manifest": name, "data.root": str(tiny_manifest.parent)} for name in names]
    whole, marked = plan_sets(names, ["train", "train"], overrides, max_videos=100, cache=tmp_path)
    assert whole.extent == "night: 30 of 30 videos (the list has no splits)"
    assert marked.extent.endswith("18 of 18 videos of the 'train' split")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least two sets, got 1"),
        (("{}", "--split", "train", "--split", "test", "--split", "val"), "once for each of 2 sets; got 3"),
        (("{}", "--set", "method.name=ev_clip"), "method.name must be zero_shot for a shift"),
        (("{}", "--set", "view.num_frames=1"), "set view.num_frames=8"),
        (("{}", "--predictions", "none.csv"), "none.csv"),
        (("none.csv",), "none.csv"),
    ],
)
def test_error_is_one_line(shift, tiny_manifest, arguments, message):
    result = shift(tiny_manifest, *(str(argument).format(tiny_manifest) for argument in arguments))
    assert result.exit_code == 1
    lines = [line for line in result.output.strip().splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    assert message in lines[0]
