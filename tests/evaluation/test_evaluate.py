"""Evaluation of checkpoints of tiny towers under every protocol, through the command."""

import csv
import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.evaluation.evaluate import load_trained
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.metrics.scoring import score
from evclip_ray.training.checkpoint import read_record
from evclip_ray.training.datamodule import prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import plan_videos


@pytest.fixture(scope="module")
def trained(debug_settings, tiny_manifest, tiny_cache, tmp_path_factory, local_ray):
    """Return a function that trains one epoch without a mask and returns the checkpoint's folder."""
    fixed = {path: value for path, value in debug_settings.items() if not path.startswith("method.")}
    context = {path: value for path, value in debug_settings.items() if path.startswith("method.")}
    context = {**context, "method.prompts": "context"}
    context.pop("method.mask.depth")

    def train(overrides=None, *, method=context):
        experiment = ExperimentConfig.load(
            {"data": {"manifest": str(tiny_manifest)}},
            {**fixed, **method, "optim.epochs": 1, **(overrides or {})},
        )
        videos = prepare(plan_videos(experiment, cache=tiny_cache), cache=tiny_cache)
        folder = tmp_path_factory.mktemp("run")
        Run.start(experiment, videos, folder=folder).fit(lambda metrics: None)
        return folder / "best"

    return train


@pytest.fixture(scope="module")
def checkpoint(trained):
    return trained()


@pytest.fixture(scope="module")
def base_checkpoint(trained):
    return trained({"data.classes": "base"})


@pytest.fixture
def evaluate(tiny_cache, tmp_path, local_ray):
    def run(*arguments, fails=False):
        found = CliRunner().invoke(
            main,
            ["evaluate", *map(str, arguments), "--out", str(tmp_path / "out"), "--cache", str(tiny_cache)],
        )
        assert (found.exit_code != 0) == fails, found.output
        return found.output

    return run


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def relabelled(manifest, path, change):
    """Write a list of the same videos under other labels. The label None removes a row."""
    rows = table(manifest)
    changed = [row | {"label": change(row["label"])} for row in rows]
    with path.open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row for row in changed if row["label"])
    return ("--data", path, "--root", manifest.parent)


def test_one_view_gives_the_numbers_of_its_logits(checkpoint, evaluate, tmp_path, tiny_cache):
    evaluate(checkpoint)
    record = read_record(checkpoint)
    experiment = ExperimentConfig.load(record["experiment"])
    videos = prepare(plan_videos(experiment, cache=tiny_cache, splits=("test",)), cache=tiny_cache)
    method = load_trained(checkpoint, experiment, record["classes"])
    found = videos.sets["test"]
    expected = score(method, found.shards, found.labels, device=torch.device("cpu"), batch_size=4).state
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert ledger["adapted"]["top1"] == expected.top1
    assert ledger["adapted"]["log_loss"] == pytest.approx(expected.log_loss, abs=1e-5)
    assert ledger["adapted"]["calibration_error"] == pytest.approx(expected.calibration_error, abs=1e-5)
    assert ledger["counts"] == {"videos": 6, "leaking_rows": 0}


def test_calibration_is_stored_and_measured(checkpoint, evaluate, tmp_path, caplog):
    calibrated = shutil.copytree(checkpoint, tmp_path / "best")
    output = evaluate(calibrated, "--calibrate", "--reject-below", "0.2", "--conformal", "0.9")
    assert "fitted on validation data (6 videos" in output
    assert "6 validation videos are few" in output
    stored = Calibration.read(calibrated)
    record = json.loads((tmp_path / "out" / "ledger.json").read_text())["calibration"]
    assert record["temperature"] == stored.temperature
    assert record["validation"]["num_videos"] == 6
    # 6 videos are too few for the level, so that every class is in the set.
    assert (record["conformal"]["coverage"], record["conformal"]["mean_size"]) == (1, 6)
    assert len(table(tmp_path / "out" / "risk_coverage.csv")) <= 6
    assert {row["scored"] for row in table(tmp_path / "out" / "reliability.csv")} == {"before", "after"}
    # A later evaluation measures the stored calibration, unless it averages views.
    assert f"temperature {stored.temperature:.3g}" in evaluate(calibrated)
    evaluate(calibrated, "--views", "2x1")
    assert "is not measured on 2x1" in caplog.text
    assert not (tmp_path / "out" / "reliability.csv").exists()
    (calibrated / "calibration.json").write_text("{")
    assert "Fit it again" in evaluate(calibrated, fails=True)
    evaluate(calibrated, "--calibrate")
    assert Calibration.read(calibrated).unknown_below is None


def test_several_views_score_every_video_once(checkpoint, evaluate, tmp_path, tiny_manifest):
    evaluate(checkpoint, "--views", "2x3", "--average", "logit")
    rows = table(tmp_path / "out" / "predictions.csv")
    tested = [row["path"] for row in table(tiny_manifest) if row["split"] == "test"]
    assert sorted(row["path"] for row in rows) == sorted(tested)
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert ledger["inputs"]["views"] == {"temporal": 2, "spatial": 3, "average": "logit"}
    assert "for example 4x3" in evaluate(checkpoint, "--views", "many", fails=True)


def test_base_to_novel_has_two_sets_and_a_harmonic_mean(base_checkpoint, evaluate, tmp_path):
    output = evaluate(base_checkpoint, "--protocol", "base_to_novel")
    assert "base: 3 classes" in output
    assert "novel: 3 classes" in output
    base, novel = (
        json.loads((tmp_path / "out" / side / "ledger.json").read_text()) for side in ("base", "novel")
    )
    assert not set(base["inputs"]["classes"]) & set(novel["inputs"]["classes"])
    b, n = base["adapted"]["top1"], novel["adapted"]["top1"]
    mean = 2 * b * n / (b + n) if b + n else 0.0
    assert f"adapted         harmonic mean of top-1 {mean:.3f}" in output
    tested = [
        row["path"]
        for side in ("base", "novel")
        for row in table(tmp_path / "out" / side / "predictions.csv")
    ]
    assert len(tested) == len(set(tested)) == 6


def test_checkpoint_of_base_classes_is_evaluated_on_them(base_checkpoint, evaluate, tmp_path):
    evaluate(base_checkpoint)
    assert len(table(tmp_path / "out" / "per_class.csv")) == 3
    assert len(table(tmp_path / "out" / "predictions.csv")) == 3


def test_cross_dataset_uses_the_names_of_the_other_set(checkpoint, evaluate, tmp_path, tiny_manifest):
    other = relabelled(tiny_manifest, tmp_path / "other.csv", lambda label: f"somebody {label}")
    assert "--protocol cross_dataset" in evaluate(checkpoint, *other, fails=True)
    evaluate(checkpoint, *other, "--protocol", "cross_dataset")
    names = {row["class"] for row in table(tmp_path / "out" / "per_class.csv")}
    assert len(names) == 6
    assert all(name.startswith("somebody ") for name in names)


def test_cross_domain_uses_the_shared_classes(checkpoint, evaluate, tmp_path, tiny_manifest):
    trained = read_record(checkpoint)["classes"]
    spelled = {trained[1]: trained[1].upper(), trained[4]: trained[4].title(), trained[0]: "waving"}
    other = relabelled(tiny_manifest, tmp_path / "other.csv", spelled.get)
    evaluate(checkpoint, *other, "--protocol", "cross_domain")
    rows = table(tmp_path / "out" / "predictions.csv")
    assert {row["label"] for row in rows} == {trained[1], trained[4]}
    assert {row["adapted"] for row in rows} <= {trained[1], trained[4]}


def test_training_videos_under_another_list_are_refused(checkpoint, evaluate, tmp_path, tiny_manifest):
    other = relabelled(tiny_manifest, tmp_path / "other.csv", str.upper)
    output = evaluate(checkpoint, *other, "--protocol", "cross_domain", "--split", "train", fails=True)
    assert "videos to score were used for this checkpoint" in output


def test_zero_shot_protocol_scores_no_trained_model(checkpoint, evaluate, tmp_path, tiny_manifest):
    other = relabelled(tiny_manifest, tmp_path / "other.csv", lambda label: f"somebody {label}")
    output = evaluate(checkpoint, *other, "--protocol", "zero_shot")
    assert "adapted" not in output
    assert list(table(tmp_path / "out" / "predictions.csv")[0]) == ["path", "label", "zero_shot", "group"]
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["adapted"] is None


def test_method_with_class_tensors_names_the_protocol(trained, evaluate, tmp_path, tiny_manifest):
    probe = trained(method={"method.name": "linear_probe"})
    names = read_record(probe)["classes"]
    fewer = relabelled(tiny_manifest, tmp_path / "fewer.csv", {name: name.upper() for name in names[1:]}.get)
    evaluate(probe, *fewer, "--protocol", "cross_domain")
    assert len(table(tmp_path / "out" / "per_class.csv")) == 5
    # As many new classes as trained ones, and fewer.
    for others in (names, names[1:]):
        other = relabelled(tiny_manifest, tmp_path / "other.csv", {name: f"a {name}" for name in others}.get)
        assert "can only be evaluated on its own classes" in evaluate(
            probe, *other, "--protocol", "cross_dataset", fails=True
        )


def test_numbers_of_a_leaky_protocol_are_marked(checkpoint, evaluate, tmp_path, tiny_manifest):
    rows = table(tiny_manifest)
    leaked = next(row for row in rows if row["split"] == "train")
    path = tmp_path / "leaky.csv"
    with path.open("w") as stream:
        writer = csv.DictWriter(stream, leaked)
        writer.writeheader()
        writer.writerows([*rows, leaked | {"split": "test"}])
    given = ("--data", path, "--root", tiny_manifest.parent)
    assert "in more than one split" in evaluate(checkpoint, *given, fails=True)
    output = evaluate(checkpoint, *given, "--set", "data.allow_leaks=true")
    assert "LEAKS affect" in output
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["counts"]["leaking_rows"] > 1


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_several_checkpoints_give_means_with_intervals(interval, checkpoint, trained, evaluate, tmp_path):
    other = trained({"seed": 1})
    output = evaluate(checkpoint, other, "--interval", interval)
    assert f"Means over 2 checkpoints, 95 % {interval} intervals" in output
    assert "not runs of one experiment" not in output
    each = [json.loads(path.read_text())["adapted"] for path in (tmp_path / "out").glob("*/ledger.json")]
    assert len(each) == 2
    means = {(row["scored"], row["metric"]): row for row in table(tmp_path / "out" / "means.csv")}
    for metric in ("top1", "top5", "mean_class_accuracy"):
        row = means["adapted", metric]
        assert float(row["mean"]) == pytest.approx(sum(numbers[metric] for numbers in each) / 2)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert row["checkpoints"] == "2"


def test_base_to_novel_checkpoints_average_harmonic_means(base_checkpoint, trained, evaluate, tmp_path):
    other = trained({"data.classes": "base", "seed": 1})
    evaluate(base_checkpoint, other, "--protocol", "base_to_novel")
    reached = []
    for folder in (tmp_path / "out").glob("*-*"):
        base, novel = (
            json.loads((folder / side / "ledger.json").read_text())["zero_shot"]["top1"]
            for side in ("base", "novel")
        )
        reached.append(2 * base * novel / (base + novel))
    rows = table(tmp_path / "out" / "means.csv")
    (row,) = [row for row in rows if row["side"] == "harmonic" and row["scored"] == "zero_shot"]
    assert len(reached) == 2
    assert float(row["mean"]) == pytest.approx(sum(reached) / 2)


def test_mean_over_other_settings_names_them(checkpoint, trained, evaluate):
    output = " ".join(evaluate(checkpoint, trained({"seed": 1, "optim.lr": 0.5})).split())
    assert "not runs of one experiment that differ in their seed: optim.lr" in output
    assert "the same seed" in " ".join(evaluate(checkpoint, checkpoint).split())


def test_unknown_protocol_names_the_nearest(checkpoint, evaluate):
    assert "did you mean 'cross_domain'" in evaluate(checkpoint, "--protocol", "crossdomain", fails=True)


def test_list_without_splits_is_scored_whole(evaluate, checkpoint, tiny_manifest, tmp_path):
    tested = [row for row in table(tiny_manifest) if row["split"] == "test"]
    lines = ["path,label"]
    for number, row in enumerate(tested):
        shutil.copy(tiny_manifest.parent / row["path"], tmp_path / f"{number}.mp4")
        lines.append(f"{number}.mp4,{row['label']}")
    (tmp_path / "new.csv").write_text("\n".join([*lines, ""]))
    output = evaluate(checkpoint, "--data", tmp_path / "new.csv")
    assert f"6 of 6 videos of {tmp_path / 'new.csv'} (the list has no splits)" in output
    rows = table(tmp_path / "out" / "predictions.csv")
    assert [row["path"] for row in rows] == [f"{number}.mp4" for number in range(6)]
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    hits = sum(row["adapted"] == row["label"] for row in rows)
    assert (ledger["counts"]["videos"], ledger["adapted"]["top1"]) == (6, pytest.approx(hits / 6))
