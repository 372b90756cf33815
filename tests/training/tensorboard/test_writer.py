"""The board of a run, read back by TensorBoard's own readers and by its HParams plugin over HTTP."""

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
    """A board of `epochs` epochs."""
    found = scores()
    strips = {"video 0": np.zeros((8, 24, 3), np.uint8)}
    with BoardWriter(folder, hparams or {}, text={"config": "all"}) as board:
        for epoch in range(1, epochs + 1):
            metrics = {"epoch": epoch, "train_loss": 1 / epoch, "val_top1": epoch / 10, "lr": 0.1}
            board.epoch(EpochMetrics({**metrics, "mask_coverage": 0.5, "zero_shot_top1": None}))
            board.validated(found.state, found, CLASSES, strips, epoch=epoch, last=epochs)
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_pictures_are_drawn_at_powers_of_two_and_at_the_end(tmp_path):
    events = written(tmp_path, 7)
    assert [image.step for image in events.Images("mask/video 0")] == [1, 2, 4, 7]
    assert [image.step for image in events.Images("val/confusion, true by predicted")] == [1, 2, 4, 7]
    picture = events.Images("mask/video 0")[0]
    assert Image.open(io.BytesIO(picture.encoded_image_string)).size == (24, 8)
    assert (picture.width, picture.height) == (24, 8)


def test_scalars_have_groups_and_none_is_left_out(tmp_path):
    events = written(tmp_path, 2)
    assert set(events.Tags()["scalars"]) == {"train/loss", "val/top1", "run/lr", "mask/coverage"}
    assert [scalar.value for scalar in events.Scalars("val/top1")] == pytest.approx([0.1, 0.2])


def test_curves_of_every_class_come_with_the_last_epoch(tmp_path):
    events = written(tmp_path, 3)
    curves = {tag for tag in events.Tags()["tensors"] if tag.startswith("pr/")}
    assert curves == {"pr/all classes", *(f"pr/{name}" for name in CLASSES)}
    assert {tensor.step for tag in curves for tensor in events.Tensors(tag)} == {3}


def test_the_first_look_is_laid_out(tmp_path):
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
def test_a_run_that_is_stopped_has_not_failed(tmp_path, ending, status):
    from tensorboard.plugins.hparams import api_pb2, metadata

    with pytest.raises(ending), BoardWriter(tmp_path, {"optim.lr": 0.1}, text={}):
        raise ending
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.Status.Value(status)


def test_a_board_of_fifty_epochs_is_small(tmp_path):
    written(tmp_path, 50)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 300_000


def test_a_mask_watch_tells_coverage_entropy_and_drift():
    watch = MaskWatch()
    half = torch.zeros(1, 8, 8)
    half[:, :4] = 1.0
    pixels = torch.rand(1, 4, 3, 8, 8)
    for masks in (half, torch.ones(1, 8, 8)):
        watch(VideoBatch(pixels), MethodOutput(torch.zeros(1, 3), mask=masks))
    first, strips = watch.finish()
    assert first["mask_coverage"] == pytest.approx(0.75)
    # Half of the (pooled) pixels alike: log(2) of log(4); all alike: 1.
    assert first["mask_entropy"] == pytest.approx((0.5 + 1.0) / 2)
    assert "mask_drift" not in first
    assert list(strips) == ["video 0", "video 1"]
    for masks in (half, torch.zeros(1, 8, 8)):
        watch(VideoBatch(pixels), MethodOutput(torch.zeros(1, 3), mask=masks))
    assert watch.finish()[0]["mask_drift"] == pytest.approx(0.5)


def test_a_method_without_masks_has_no_mask_statistics():
    watch = MaskWatch()
    watch(VideoBatch(None), MethodOutput(torch.zeros(1, 3)))
    assert watch.finish() == ({}, {})


def test_a_strip_shows_the_frame_its_mask_and_what_is_left():
    frame = np.full((10, 10, 3), 250, np.uint8)
    strip = mask_strip(frame, np.zeros((10, 10)), side=10)
    assert strip.shape == (10, 30, 3)
    assert (strip[:, :10] == 250).all()
    assert (strip[:, 10:20] == coloured(np.zeros((1, 1)))[0, 0]).all()
    assert (strip[:, 20:] == 122).all(), "what a mask hides is the mean colour"


def test_the_colours_grow_lighter():
    lightness = coloured(np.linspace(0, 1, 50)[None])[0].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("classes", [2, 6, 101])
def test_a_confusion_matrix_is_drawn_whatever_its_size(classes):
    names = [f"a class of a rather long name {number}" for number in range(classes)]
    picture = confusion_picture(np.eye(classes, dtype=int) * 3, names)
    assert picture.dtype == np.uint8
    assert max(picture.shape) < 1000


def test_the_hparams_plugin_sees_every_run_with_its_domains_before_the_study_ends(tmp_path, tensorboard):
    declare_domains(
        tmp_path, {"optim.lr": ("interval", (1e-3, 1e-1)), "method.prompts": ("choice", ("both", "mask"))}
    )
    written(tmp_path / "trials" / "0", 3, {"optim.lr": 0.01, "method.prompts": "both"})
    declare_domains(tmp_path, {})
    live = BoardWriter(tmp_path / "trials" / "1", {"optim.lr": 0.02, "method.prompts": "mask"}, text={})
    live.epoch(EpochMetrics({"epoch": 1, "val_top1": 0.9}))
    deadline = time.monotonic() + 60
    groups = []
    while len(groups) < 2 and time.monotonic() < deadline:
        time.sleep(1)
        request = {
            "startIndex": 0, "sliceSize": 10, "colParams": [{"metric": {"tag": "val/top1"}}],
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
        }  # fmt: skip
        groups = tensorboard("session_groups", **request).get("sessionGroups", [])
    live.__exit__(None, None, None)
    found = {
        group["hparams"]["optim.lr"]: (
            group["hparams"]["method.prompts"],
            {v["name"]["tag"]: v["value"] for v in group["metricValues"]}["val/top1"],
        )
        for group in groups
    }
    assert found == {0.01: ("both", pytest.approx(0.3)), 0.02: ("mask", pytest.approx(0.9))}
    experiment = tensorboard("experiment")
    searched = {info["name"]: info for info in experiment["hparamInfos"]}
    assert searched["optim.lr"]["domainInterval"] == {"minValue": 1e-3, "maxValue": 1e-1}
    assert searched["method.prompts"]["domainDiscrete"] == ["both", "mask"]
    assert "val/best_top1" in {info["name"]["tag"] for info in experiment["metricInfos"]}
