"""The recognizer: loading, predictions for whole videos and windows, class names, and threads."""

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numbered_videos import write_numbered

import evclip_ray
from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.data.video.decode import VideoError, decode_view
from evclip_ray.deploy.predictions import FailedVideo
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.models.methods import METHODS
from evclip_ray.profiling.memory import peak_bytes


@pytest.fixture(scope="module")
def recognizer(checkpoint):
    return Recognizer.load(checkpoint, device="cpu")


def logits_of(predictions):
    return np.stack([prediction.overall.logits for prediction in predictions])


def with_config(checkpoint, folder, change):
    """Copy a checkpoint and change its config.json."""
    shutil.copytree(checkpoint, folder)
    record = json.loads((folder / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "checksums.json").unlink()
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_probabilities_of_its_classes(method, make_checkpoint, videos):
    recognizer = Recognizer.load(make_checkpoint(method), device="cpu")
    prediction = recognizer.predict(videos[0], top_k=10)
    assert sorted(score.name for score in prediction.scores) == sorted(recognizer.classes)
    assert sum(score.probability for score in prediction.scores) == pytest.approx(1)
    assert prediction.best.probability == max(score.probability for score in prediction.scores)
    (single,) = prediction.windows
    assert single is prediction.overall


def test_video_without_windows_is_one_view_of_all_of_it(recognizer, videos):
    prediction = recognizer.predict(videos[1])
    assert (prediction.video, prediction.num_frames) == (str(videos[1]), 50)
    assert prediction.duration_seconds == pytest.approx(2)
    assert (prediction.overall.start_seconds, prediction.overall.end_seconds) == (0, pytest.approx(2))
    expected = decode_view(videos[1], view=recognizer.view)
    assert np.array_equal(recognizer.decode(videos[1]), expected)
    assert np.array_equal(prediction.overall.logits, recognizer.logits([expected])[0])


def test_part_of_a_video_is_that_of_a_manifest_row(recognizer, videos):
    part = {"start_seconds": 0.8, "end_seconds": 1.6}
    prediction = recognizer.predict(videos[1], **part)
    assert prediction.num_frames == 20
    assert (prediction.overall.start_seconds, prediction.overall.end_seconds) == (0.8, 1.6)
    expected = decode_view(videos[1], view=recognizer.view, **part)
    assert np.array_equal(recognizer.decode(videos[1], **part), expected)


def test_window_equals_the_part_of_the_video(recognizer, videos):
    prediction = recognizer.predict(videos[2], window_seconds=1, stride_seconds=0.5)
    bounds = [(round(w.start_seconds, 6), round(w.end_seconds, 6)) for w in prediction.windows]
    assert bounds == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]
    parts = [
        recognizer.predict(videos[2], start_seconds=start, end_seconds=end).overall.logits
        for start, end in bounds
    ]
    assert np.abs(np.stack(parts) - np.stack([w.logits for w in prediction.windows])).max() < 1e-4


def test_windows_of_a_part_stay_inside_it(recognizer, videos):
    prediction = recognizer.predict(videos[2], window_seconds=0.4, start_seconds=1, end_seconds=2)
    bounds = [(round(w.start_seconds, 6), round(w.end_seconds, 6)) for w in prediction.windows]
    assert bounds == [(1, 1.4), (1.4, 1.8), (1.6, 2)]


def test_overall_probabilities_are_the_mean_over_windows(recognizer, videos):
    prediction = recognizer.predict(videos[2], window_seconds=1, top_k=4)
    each = [{score.name: score.probability for score in window.scores} for window in prediction.windows]
    for score in prediction.scores:
        assert score.probability == pytest.approx(np.mean([window[score.name] for window in each]))
    again = torch.tensor(prediction.overall.logits).softmax(0)
    assert sorted(again.tolist(), reverse=True) == pytest.approx([s.probability for s in prediction.scores])


def test_windows_are_yielded_before_the_video_ends(recognizer, videos):
    windows = recognizer.predict_windows(videos[2], window_seconds=0.5)
    expected = recognizer.predict(videos[2], window_seconds=0.5).windows
    assert next(windows).record() == expected[0].record()
    assert [window.record() for window in windows] == [window.record() for window in expected[1:]]


def test_masks_have_the_size_of_the_crop(recognizer, videos):
    assert recognizer.predict(videos[0]).overall.mask is None
    prediction = recognizer.predict(videos[2], masks=True, window_seconds=1)
    masks = np.stack([window.mask for window in prediction.windows])
    assert masks.shape == (3, recognizer.image_size, recognizer.image_size)
    assert masks.dtype == np.float32
    assert 0 <= masks.min() < masks.max() <= 1


def test_method_without_masks_loads_no_video_network(make_checkpoint, videos):
    recognizer = Recognizer.load(make_checkpoint("linear_probe"), device="cpu")
    assert recognizer.method.frozen.video_encoder is None
    assert recognizer.predict(videos[0], masks=True).overall.mask is None


def test_many_videos_keep_their_order_and_report_failures(recognizer, videos, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    listed = [videos[0], tmp_path / "text.mp4", videos[1], tmp_path / "missing.mp4", videos[2]] * 3
    results = list(recognizer.predict_many(listed, batch_size=2, workers=3))
    assert [result.video for result in results] == [str(video) for video in listed]
    failed = [result for result in results if isinstance(result, FailedVideo)]
    assert len(failed) == 6
    assert {result.error for result in failed} == {
        "cannot be opened (Invalid data found when processing input)",
        "cannot be opened (No such file or directory)",
    }
    good = [result for result in results if not isinstance(result, FailedVideo)]
    single = [recognizer.predict(result.video) for result in good]
    assert np.abs(logits_of(good) - logits_of(single)).max() < 1e-4


def test_batches_run_over_windows_of_several_videos(recognizer, videos):
    many = list(recognizer.predict_many(videos, window_seconds=0.3, batch_size=7, workers=2))
    for result, video in zip(many, videos, strict=True):
        single = recognizer.predict(video, window_seconds=0.3)
        assert [w.start_seconds for w in result.windows] == [w.start_seconds for w in single.windows]
        assert np.abs(logits_of([result]) - logits_of([single])).max() < 1e-4


def test_videos_of_different_shapes_share_a_batch(recognizer, videos, tmp_path):
    wide = write_numbered(tmp_path / "wide.mp4", "libx264", numbers=range(9), size=(96, 48))
    results = list(recognizer.predict_many([videos[0], wide], batch_size=2))
    assert np.abs(logits_of(results[1:]) - logits_of([recognizer.predict(wide)])).max() < 1e-4


def test_videos_are_taken_as_they_are_needed(recognizer, videos):
    taken = []

    def listed():
        for number in itertools.count():
            taken.append(number)
            yield videos[0]

    results = recognizer.predict_many(listed(), batch_size=2, workers=1)
    for _ in range(4):
        next(results)
    results.close()
    assert len(taken) <= 4 + 2 * 2 + 1


def test_lost_storage_ends_the_work(recognizer, videos, monkeypatch):
    from evclip_ray.data.storage import StorageError

    def lost(*_, **__):
        raise StorageError("the mount is gone")
        yield

    monkeypatch.setattr("evclip_ray.deploy.recognizer.read_views", lost)
    with pytest.raises(StorageError, match="the mount is gone"):
        list(recognizer.predict_many(videos))


def test_broken_video_raises_when_it_is_the_only_one(recognizer, tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="cannot be opened"):
        recognizer.predict(tmp_path / "empty.mp4")


def test_threads_get_the_results_of_one_thread(recognizer, videos):
    frames = [recognizer.decode(video) for video in videos]
    expected = [recognizer.logits([view]) for view in frames]
    names = [("one", "two"), ("three", "four"), ("five", "six")]

    def work(number):
        other = recognizer.with_classes(names[number % 3])
        return recognizer.logits([frames[number % 3]]), other.classes, other.logits([frames[0]])

    with ThreadPoolExecutor(4) as pool:
        for number, (logits, classes, others) in enumerate(pool.map(work, range(6))):
            assert np.array_equal(logits, expected[number % 3])
            assert classes == names[number % 3]
            assert np.array_equal(others, recognizer.with_classes(classes).logits([frames[0]]))


def test_loading_leaves_random_numbers_and_gradients_as_they_are(checkpoint, videos):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Recognizer.load(checkpoint, device="cpu").predict(videos[0])
    assert torch.equal(torch.rand(2), expected)
    assert torch.is_grad_enabled()


def test_new_classes_need_no_training(recognizer, videos):
    other = recognizer.with_classes(["jump", *recognizer.classes[:2]])
    assert other.classes == ("jump", "walk", "run")
    prediction = other.predict(videos[0])
    # The texts of the two shared classes are the same, so their logits are too.
    trained = recognizer.predict(videos[0]).overall.logits
    assert prediction.overall.logits[1:] == pytest.approx(trained[:2], abs=1e-4)
    assert recognizer.with_classes(["jump", *recognizer.classes[:2]]) is other
    assert other.with_classes(recognizer.classes) is recognizer


def test_many_class_names_are_encoded_in_chunks(make_checkpoint, videos):
    recognizer = Recognizer.load(make_checkpoint("coop"), device="cpu")
    names = [f"action {number}" for number in range(300)]
    frames = [recognizer.decode(videos[0])]
    logits = recognizer.with_classes(names).logits(frames)
    assert logits.shape == (1, 300)
    # The same texts in one chunk.
    few = recognizer.with_classes(names[290:])
    assert logits[:, 290:] == pytest.approx(few.logits(frames), abs=1e-3)
    for shared, trained in zip(few.method.parameters(), recognizer.method.parameters(), strict=True):
        assert shared.data_ptr() == trained.data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ev_clip", "coop", "ez_clip", "fine_tune"])
def test_ten_thousand_class_names_need_little_memory(method, make_checkpoint, videos):
    recognizer = Recognizer.load(make_checkpoint(method), device="cpu")
    names = [f"action {number}" for number in range(10_000)]

    def run():
        assert len(recognizer.with_classes(names).predict(videos[0]).overall.logits) == 10_000

    recognizer.with_classes(names[:300]).predict(videos[0])
    _, peak = peak_bytes(run, recognizer.device)
    # All at once, one layer's activations would take 800 MB.
    assert peak < 300 * 2**20


@pytest.mark.parametrize("method", ["linear_probe", "prototype"])
def test_tensors_per_class_refuse_other_names(method, make_checkpoint):
    recognizer = Recognizer.load(make_checkpoint(method), device="cpu")
    assert recognizer.with_classes(recognizer.classes) is recognizer
    # As many as those of the training, so that the tensors would fit.
    for names in (["a", "b", "c", "d"], ["a", "b"]):
        with pytest.raises(ArtifactError, match=f"the method {method} has trained tensors per class"):
            recognizer.with_classes(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "classes is empty"),
        ("walk", "must be a list of class names, got the text 'walk'"),
        (["walk", " "], "class name 2 of 2 is empty"),
        (["open_a_door", "open a door"], "several labels read: open a door"),
        (["word " * 100, "walk"], "longer than the 77 tokens"),
    ],
)
def test_class_names_that_cannot_be_told_apart_are_refused(recognizer, names, message):
    with pytest.raises(ValueError, match=message):
        recognizer.with_classes(names)


def test_calibration_of_the_trained_classes_alone_rejects(checkpoint, videos, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "best")
    calibration = Calibration(
        temperature=2.0,
        classes=("walk", "run", "wave", "open_a_door"),
        unknown_below=1.0,
        conformal_level=0.9,
        conformal_quantile=1.0,
    )
    calibration.write(tmp_path / "best")
    recognizer = Recognizer.load(tmp_path / "best", device="cpu")
    for prediction in (recognizer.predict(videos[2]), recognizer.predict(videos[2], window_seconds=1)):
        assert prediction.overall.is_unknown
        assert prediction.overall.prediction_set == recognizer.classes
    logits = recognizer.predict(videos[0]).overall.logits
    expected = (torch.tensor(logits) / 2).softmax(0).max().item()
    assert recognizer.predict(videos[0]).best.probability == pytest.approx(expected)
    other = recognizer.with_classes(["jump", "sit"])
    assert other.calibration.temperature == 2
    assert not other.predict(videos[0]).overall.is_unknown
    assert other.predict(videos[0]).overall.prediction_set is None
    assert Recognizer.load(tmp_path / "best", use_calibration=False).calibration is None
    # Threshold and sets were fitted on other views.
    changed = Recognizer.load(tmp_path / "best", overrides={"view.short_side": 80})
    assert not changed.predict(videos[0]).overall.is_unknown


def test_folder_that_is_no_checkpoint_names_the_right_one(checkpoint, tmp_path):
    with pytest.raises(ArtifactError, match="must be a checkpoint folder"):
        Recognizer.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"did you mean .*best"):
        Recognizer.load(checkpoint.parent)


def test_checkpoint_of_another_version_names_both(checkpoint, tmp_path):
    def change(record):
        record["experiment"]["optim"]["new_setting"] = 1
        record["provenance"]["versions"]["evclip-ray"] = "9.9.9"

    newer = with_config(checkpoint, tmp_path / "newer", change)
    with pytest.raises(ArtifactError, match=r"new_setting.*written by evclip-ray 9\.9\.9"):
        Recognizer.load(newer)


def test_damaged_record_names_what_is_missing(checkpoint, tmp_path):
    damaged = with_config(checkpoint, tmp_path / "damaged", lambda record: record.pop("weights"))
    with pytest.raises(ArtifactError, match=r"no weights in its config\.json; the file is damaged"):
        Recognizer.load(damaged)


def test_checkpoint_of_an_unknown_method_names_it(checkpoint, tmp_path):
    def change(record):
        record["experiment"]["method"] = {"name": "clip_lorra"}

    foreign = with_config(checkpoint, tmp_path / "foreign", change)
    with pytest.raises(ArtifactError, match=r"'clip_lorra' is unknown.*package that provides its method"):
        Recognizer.load(foreign)


def test_other_frozen_weights_are_refused(checkpoint, tmp_path):
    def change(record):
        record["weights"]["clip"] = "openai"

    other = with_config(checkpoint, tmp_path / "other", change)
    with pytest.raises(ArtifactError, match="other frozen weights: clip was openai and is random "):
        Recognizer.load(other, device="cpu")


def test_missing_frozen_weights_name_the_setting(checkpoint):
    with pytest.raises(ConfigError, match=r"no-such\.safetensors"):
        Recognizer.load(checkpoint, overrides={"backbone.pretrained": "no-such.safetensors"})


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "unknown"), ("mps", "unknown"), ("cuda", "0 GPUs"), ("cuda:7", "0 GPUs")],
)
def test_device_that_does_not_exist_is_refused(checkpoint, device, message):
    with pytest.raises(ConfigError, match=message):
        Recognizer.load(checkpoint, device=device)


@pytest.mark.parametrize("option", ["top_k", "batch_size", "workers"])
def test_counts_below_one_are_refused(recognizer, videos, option):
    with pytest.raises(ConfigError, match=f"{option} must be at least 1, got 0"):
        next(recognizer.predict_many(videos, **{option: 0}))


def test_views_of_another_form_are_refused(recognizer):
    for view in (np.zeros((3, 72, 72, 3), np.uint8), np.zeros((4, 72, 72, 3), np.float32)):
        with pytest.raises(ValueError, match=r"a view must be \(4, H, W, 3\) uint8, got"):
            recognizer.logits([view])


def test_predict_function_loads_and_predicts(checkpoint, videos):
    results = list(evclip_ray.predict(checkpoint, videos[0], device="cpu", classes=["jump", "sit"]))
    assert [result.video for result in results] == [str(videos[0])]
    assert {score.name for score in results[0].scores} == {"jump", "sit"}
