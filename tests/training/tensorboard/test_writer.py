"""Event files of a run, read by TensorBoard's readers and by its HParams plugin over HTTP."""

import errno
import io
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evclip_ray.metrics.scoring import Scores
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.records import EpochMetrics
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.training.tensorboard.images import coloured, confusion_picture, mask_strip
from evclip_ray.training.tensorboard.mask_stats import MaskWatch
from evclip_ray.training.tensorboard.writer import BoardWriter

CLASSES = ("shake hands", "hug", "kick")


def scores(videos=12):
    labels = np.arange(videos) % len(CLASSES)
    logits = np.random.default_rng(0).normal(size=(videos, len(CLASSES))).astype(np.float32)
    return Scores(logits, labels)


def written(folder, epochs, hparams=None):
    """Write event files of `epochs` epochs and return their reader."""
    val_scores = scores()
    strips = {"video 0": np.zeros((8, 24, 3), np.uint8)}
    with BoardWriter(folder, hparams or {}, text={"config": "all"}) as board:
        for epoch in range(1, epochs + 1):
            metrics = {"epoch": epoch, "train_loss": 1 / epoch, "val_top1": epoch / 10, "lr": 0.1}
            board.epoch(EpochMetrics({**metrics, "mask_coverage": 0.5, "zero_shot_top1": None}))
            board.validated(val_scores.state, val_scores, CLASSES, strips, epoch=epoch, last=epochs)
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_pictures_are_drawn_at_powers_of_two_and_the_end(tmp_path):
    events = written(tmp_path, 7)
    assert [image.step for image in events.Images("mask/video 0")] == [1, 2, 4, 7]
    assert [image.step for image in events.Images("val/confusion, true by predicted")] == [1, 2, 4, 7]
    picture = events.Images("mask/video 0")[0]
    assert Image.open(io.BytesIO(picture.encoded_image_string)).size == (24, 8)
    assert (picture.width, picture.height) == (24, 8)


def test_scalars_are_grouped_and_complete(tmp_path):
    events = written(tmp_path, 2)
    assert set(events.Tags()["scalars"]) == {"train/loss", "val/top1", "run/lr", "mask/coverage"}
    assert [scalar.value for scalar in events.Scalars("val/top1")] == pytest.approx([0.1, 0.2])


def test_class_curves_are_written_with_the_last_epoch(tmp_path):
    events = written(tmp_path, 3)
    curves = {tag for tag in events.Tags()["tensors"] if tag.startswith("pr/")}
    assert curves == {"pr/all classes", *(f"pr/{name}" for name in CLASSES)}
    assert {tensor.step for tag in curves for tensor in events.Tensors(tag)} == {3}


def test_custom_layout_is_written(tmp_path):
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    events = written(tmp_path, 1)
    (tensor,) = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    shown = {tag for group in layout.category for chart in group.chart for tag in chart.multiline.tag}
    assert {"val/top1", "val/zero_shot_top1", "train/loss", "mask/entropy"} <= shown


@pytest.mark.parametrize(
    ("ending", "status"),
    [(SystemExit, "STATUS_SUCCESS"), (GeneratorExit, "STATUS_SUCCESS"), (OSError, "STATUS_FAILURE")],
)
def test_stopped_run_has_not_failed(tmp_path, ending, status):
    from tensorboard.plugins.hparams import api_pb2, metadata

    with pytest.raises(ending), BoardWriter(tmp_path, {"optim.lr": 0.1}, text={}):
        raise ending
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.Status.Value(status)


def test_event_file_of_fifty_epochs_is_small(tmp_path):
    written(tmp_path, 50)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 300_000


def test_mask_statistics_are_coverage_entropy_and_drift():
    watch = MaskWatch()
    half = torch.zeros(1, 8, 8)
    half[:, :4] = 1.0
    pixels = torch.rand(1, 4, 3, 8, 8)
    for masks in (half, torch.ones(1, 8, 8)):
        watch(VideoBatch(pixels), MethodOutput(torch.zeros(1, 3), mask=masks))
    first, strips = watch.finish()
    assert first["mask_coverage"] == pytest.approx(0.75)
    # Equal weight on 32 of 64 pixels has log(32) of the maximal entropy log(64), on all of them 1.
    assert first["mask_entropy"] == pytest.approx((5 / 6 + 1.0) / 2)
    assert "mask_drift" not in first
    assert list(strips) == ["video 0", "video 1"]
    for masks in (half, torch.zeros(1, 8, 8)):
        watch(VideoBatch(pixels), MethodOutput(torch.zeros(1, 3), mask=masks))
    assert watch.finish()[0]["mask_drift"] == pytest.approx(0.5)


def test_mask_coverage_counts_single_pixels():
    """A checkerboard covers half of the picture. Pooled over 4 x 4 pixels it would cover nothing."""
    watch = MaskWatch()
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    watch(VideoBatch(torch.rand(1, 4, 3, 8, 8)), MethodOutput(torch.zeros(1, 3), mask=board[None].float()))
    assert watch.finish()[0]["mask_coverage"] == 0.5


def test_method_without_masks_has_no_mask_statistics():
    watch = MaskWatch()
    watch(VideoBatch(None), MethodOutput(torch.zeros(1, 3)))
    assert watch.finish() == ({}, {})


def test_strip_shows_frame_mask_and_masked_frame():
    frame = np.full((10, 10, 3), 250, np.uint8)
    strip = mask_strip(frame, np.zeros((10, 10)), side=10)
    assert strip.shape == (10, 30, 3)
    assert (strip[:, :10] == 250).all()
    assert (strip[:, 10:20] == coloured(np.zeros((1, 1)))[0, 0]).all()
    assert (strip[:, 20:] == 122).all(), "hidden pixels have the mean colour"


def test_colours_become_lighter():
    lightness = coloured(np.linspace(0, 1, 50)[None])[0].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("classes", [2, 6, 101])
def test_confusion_matrix_of_any_size_is_drawn(classes):
    names = [f"a class of a rather long name {number}" for number in range(classes)]
    picture = confusion_picture(np.eye(classes, dtype=int) * 3, names)
    assert picture.dtype == np.uint8
    assert max(picture.shape) < 1000


def test_hparams_plugin_lists_runs_before_the_study_ends(tmp_path, tensorboard):
    declare_domains(
        tmp_path, {"optim.lr": ("interval", (1e-3, 1e-1)), "method.prompts": ("choice", ("both", "mask"))}
    )
    written(tmp_path / "trials" / "0", 3, {"optim.lr": 0.01, "method.prompts": "both"})
    declare_domains(tmp_path, {})
    # Attempts that a kill and a full disk ended, each with a second attempt, and a failed one.
    for name, ending in (("killed", None), ("full", OSError(errno.ENOSPC, "")), ("failed", ValueError())):
        attempt = BoardWriter(tmp_path / "trials" / name, {"optim.lr": 0.03}, text={})
        attempt.epoch(EpochMetrics({"epoch": 1, "val_top1": 0.1}))
        if ending is not None:
            attempt.__exit__(type(ending), ending, None)
        if name != "failed":
            written(tmp_path / "trials" / name, 3, {"optim.lr": 0.03})
    live = BoardWriter(tmp_path / "trials" / "1", {"optim.lr": 0.02, "method.prompts": "mask"}, text={})
    live.epoch(EpochMetrics({"epoch": 1, "val_top1": 0.9}))
    deadline = time.monotonic() + 60
    groups = []
    while len(groups) < 5 and time.monotonic() < deadline:
        time.sleep(1)
        request = {
            "startIndex": 0,
            "sliceSize": 10,
            "colParams": [{"metric": {"tag": "val/top1"}}],
            "allowedStatuses": [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")],
        }
        groups = tensorboard("session_groups", **request).get("sessionGroups", [])
    live.__exit__(None, None, None)
    status = {group["name"].split("/")[-1]: group["sessions"][0]["status"] for group in groups}
    ended = dict.fromkeys(("0", "killed", "full"), "STATUS_SUCCESS")
    assert status == {**ended, "1": "STATUS_UNKNOWN", "failed": "STATUS_FAILURE"}
    by_rate = {
        group["hparams"]["optim.lr"]: (
            group["hparams"]["method.prompts"],
            {v["name"]["tag"]: v["value"] for v in group["metricValues"]}["val/top1"],
        )
        for group in groups
        if group["hparams"]["optim.lr"] != 0.03
    }
    assert by_rate == {0.01: ("both", pytest.approx(0.3)), 0.02: ("mask", pytest.approx(0.9))}
    experiment = tensorboard("experiment")
    searched = {info["name"]: info for info in experiment["hparamInfos"]}
    assert searched["optim.lr"]["domainInterval"] == {"minValue": 1e-3, "maxValue": 1e-1}
    assert searched["method.prompts"]["domainDiscrete"] == ["both", "mask"]
    metrics = [(info["name"]["tag"], info["displayName"]) for info in experiment["metricInfos"]]
    assert metrics[0] == ("val/best_top1", "top-1, best epoch")
    assert ("val/top1", "top-1, last epoch") in metrics


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        ("last", ("val/top1", "top-1, last epoch")),
        ("mean_of_last_3", ("val/mean_top1", "top-1, mean of the last 3 epochs")),
    ],
)
def test_first_metric_of_hparams_is_the_objective(tmp_path, objective, first):
    from tensorboard.plugins.hparams import metadata

    declare_domains(tmp_path, {}, objective=objective)
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    metrics = metadata.parse_experiment_plugin_data(content).metric_infos
    assert (metrics[0].name.tag, metrics[0].display_name) == first
    assert len({metric.name.tag for metric in metrics}) == len(metrics)
