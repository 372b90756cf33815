"""Predictions for whole videos are those of the evaluation, to 1e-5 in the logits."""

import numpy as np
import pytest
import torch
from numbered_videos import write_numbered

from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.evaluation.evaluate import load_trained
from evclip_ray.metrics.multi_view import EvaluationViews, score_views
from evclip_ray.models.methods import METHODS
from evclip_ray.training.datamodule import prepare
from evclip_ray.training.video_plan import plan_videos

SIZES = [(64, 48), (64, 48), (96, 48), (48, 64), (64, 48), (80, 80), (64, 48)]
LABELS = ["walk", "run", "wave", "open_a_door", "walk", "run", "wave"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Write seven test videos of several sizes and lengths and their list."""
    folder = tmp_path_factory.mktemp("test_videos")
    rows = ["path,label,split"]
    for number, (size, label) in enumerate(zip(SIZES, LABELS, strict=True)):
        # AVI files are read in sequence, the others by seeking.
        name, codec = (f"{number}.avi", "mpeg4") if number % 3 == 1 else (f"{number}.mp4", "libx264")
        write_numbered(folder / name, codec, numbers=range(number, 3 * number + 5), size=size)
        rows.append(f"{name},{label},test")
    (folder / "videos.csv").write_text("\n".join(rows))
    return folder / "videos.csv"


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_the_evaluation(method, make_checkpoint, manifest, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("evclip_ray.data.shards.prepare.require_ray", lambda what: None)
    checkpoint = make_checkpoint(method, overrides={"data.manifest": str(manifest)})
    recognizer = Recognizer.load(checkpoint, device="cpu")
    cache = tmp_path_factory.getbasetemp() / "evaluated"
    videos = prepare(plan_videos(recognizer.experiment, cache=cache, splits=("test",)), cache=cache)
    test = videos.sets["test"]
    expected = score_views(
        load_trained(checkpoint, recognizer.experiment, recognizer.classes),
        test.shards,
        test.labels,
        views=EvaluationViews(),
        device=torch.device("cpu"),
        batch_size=recognizer.experiment.optim.eval_batch_size,
    )
    assert len(test.shards) == len(SIZES)
    paths = [manifest.parent / path for path in test.shards.paths]
    results = list(recognizer.predict_many(paths))
    logits = np.stack([result.overall.logits for result in results])
    assert np.abs(logits - expected.logits).max() < 1e-5
    right = [recognizer.classes.index(result.best.name) for result in results] == test.labels
    assert right.mean() == expected.state.top1
    # Videos differ, so that the comparison means something.
    assert np.ptp(logits, axis=0).max() > 1e-3
