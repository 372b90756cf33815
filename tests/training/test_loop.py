import datetime
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evclip_ray.artifacts import ArtifactError
from evclip_ray.records import SPEED_SHARES
from evclip_ray.training import speed, validation
from evclip_ray.training.build import build_method
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.matrix_rate import MatrixRate


def start(experiment, videos, folder, **options):
    device = torch.device("cpu")
    return Run(
        experiment, videos, build_method(experiment, videos.classes, device=device), folder=folder, **options
    )


def timeless(folder):
    """Return the epochs of a run without the numbers that depend on its speed."""
    return [
        {key: line[key] for key in line if not key.endswith(("seconds", "_share"))}
        for line in history(folder)
    ]


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_run_lowers_loss_and_writes_history_and_checkpoints(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__epochs=4)
    reported = []
    last = start(experiment, tiny_videos, tmp_path).fit(reported.append)
    assert [metrics["epoch"] for metrics in reported] == [1, 2, 3, 4]
    assert last["train_loss"] < reported[0]["train_loss"]
    assert history(tmp_path) == [metrics.to_record() for metrics in reported]
    assert last["best_val_top1"] == max(metrics["val_top1"] for metrics in reported)
    assert last["val_videos"] == len(tiny_videos.sets["val"])
    method = build_method(experiment, tiny_videos.classes)
    trained = load_file(tmp_path / "best" / "adapter.safetensors")
    assert set(trained) == {name for name, _ in method.named_parameters()}
    record = json.loads((tmp_path / "best" / "config.json").read_text())
    assert record["weights"] == {"clip": "random", "video_encoder": "random"}
    assert record["conditions"] == {"precision": "float32", "device": "cpu", "activation": "gelu"}
    assert last["conditions"] == "float32 on cpu"
    assert record["classes"] == list(tiny_videos.classes)
    assert not (tmp_path / "last" / "optimizer.safetensors").exists()


@pytest.fixture
def measured(monkeypatch):
    """Measure the speed of short runs too, on a processor of 1 TFLOP/s."""
    monkeypatch.setattr(speed, "MIN_STEPS", 1)
    monkeypatch.setattr(speed, "_SHARE_OF_STEPS", 1.0)
    monkeypatch.setattr(speed, "matrix_rate", lambda *_: MatrixRate(1e12, "a processor", "float32", 1))


def test_measured_run_has_its_speed_and_the_same_numbers(make_experiment, tiny_videos, tmp_path, request):
    experiment = make_experiment(optim__epochs=2)
    start(experiment, tiny_videos, tmp_path / "short").fit(lambda metrics: None)
    request.getfixturevalue("measured")
    start(experiment, tiny_videos, tmp_path / "long").fit(lambda metrics: None)
    assert timeless(tmp_path / "long") == timeless(tmp_path / "short")
    for epoch in history(tmp_path / "long"):
        assert 0 < epoch["matrix_share"] < 1
        assert epoch["wait_share"] == pytest.approx(epoch["wait_seconds"] / epoch["step_seconds"])
        assert epoch["bare_share"] > 0
    assert "matrix_share" not in history(tmp_path / "short")[0]
    record = json.loads((tmp_path / "long" / "last" / "config.json").read_text())
    assert record["speed"]["device"] == "a processor"
    board = EventAccumulator(str(tmp_path / "long"))
    board.Reload()
    assert {f"run/{name}" for name in SPEED_SHARES} <= set(board.Tags()["scalars"])


def test_validation_without_memory_releases_the_graphs(make_experiment, tiny_videos, tmp_path, monkeypatch):
    class Graphs:
        reasons = ()

        def __call__(self, batch):
            return run.step._gradients_of(batch)

        def drop(self, reason):
            self.reasons = (*self.reasons, reason)
            return len(self.reasons) == 1

    def full(*args, **options):
        scored = usual(*args, **options)
        if len(run.step.graphs.reasons) < limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return scored

    usual, limit = validation.score, 1
    experiment = make_experiment(optim__epochs=1)
    expected = start(experiment, tiny_videos, tmp_path / "usual").fit(lambda metrics: None)
    monkeypatch.setattr(validation, "score", full)
    run = start(experiment, tiny_videos, tmp_path / "full")
    run.step.graphs = Graphs()
    last = run.fit(lambda metrics: None)
    assert run.step.graphs.reasons == ("validation needs their memory",)
    for name in ("val_loss", "mask_coverage", "mask_entropy"):
        assert last.values[name] == expected.values[name]
    limit = 3
    with pytest.raises(torch.OutOfMemoryError):
        run.next_epoch()


def test_interrupted_run_resumes_identically(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment()
    start(experiment, tiny_videos, tmp_path / "whole").fit(lambda metrics: None)

    def interrupt(metrics):
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(experiment, tiny_videos, tmp_path / "parts").fit(interrupt)
    epochs = []
    start(experiment, tiny_videos, tmp_path / "parts").fit(lambda metrics: epochs.append(metrics["epoch"]))
    assert epochs == [2, 3]
    whole = load_file(tmp_path / "whole" / "last" / "adapter.safetensors")
    parts = load_file(tmp_path / "parts" / "last" / "adapter.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_finished_run_trains_nothing_and_reports_once(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__epochs=1)
    start(experiment, tiny_videos, tmp_path).fit(lambda metrics: None)
    before = (tmp_path / "last" / "adapter.safetensors").stat().st_mtime_ns
    reported = []
    start(experiment, tiny_videos, tmp_path).fit(reported.append)
    assert [metrics["epoch"] for metrics in reported] == [1]
    assert (tmp_path / "last" / "adapter.safetensors").stat().st_mtime_ns == before


def test_folder_of_another_experiment_is_refused(make_experiment, tiny_videos, tmp_path):
    start(make_experiment(optim__epochs=1), tiny_videos, tmp_path).fit(lambda metrics: None)
    with pytest.raises(ArtifactError, match="another experiment"):
        start(make_experiment(optim__epochs=1, optim__lr=0.5), tiny_videos, tmp_path).fit(
            lambda metrics: None
        )


def test_run_on_other_frozen_weights_is_refused(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__epochs=1)
    start(experiment, tiny_videos, tmp_path).fit(lambda metrics: None)
    config = tmp_path / "last" / "config.json"
    record = json.loads(config.read_text())
    record["weights"]["clip"] = "file:0123456789abcdef (gelu)"
    config.write_text(json.dumps(record))
    (tmp_path / "last" / "checksums.json").unlink()
    with pytest.raises(
        ArtifactError, match=r"other frozen weights.*clip was file:.*\(gelu\) and is .*backbone\.activation"
    ):
        start(experiment, tiny_videos, tmp_path).resume()


def test_nan_loss_ends_the_run_with_a_finite_report(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__lr=1e30, optim__warmup_epochs=0, optim__epochs=5)
    last = start(experiment, tiny_videos, tmp_path).fit(lambda metrics: None)
    assert last["diverged"]
    assert last["epoch"] < 5
    assert 0 <= last["best_val_top1"] <= 1
    reported = []
    start(experiment, tiny_videos, tmp_path).fit(reported.append)
    assert len(reported) == 1, "a diverged run is not resumed"


def test_seed_determines_the_run(make_experiment, tiny_videos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        start(make_experiment(seed=seed, optim__epochs=1), tiny_videos, tmp_path / name).fit(
            lambda metrics: None
        )
    losses = {name: history(tmp_path / name)[0]["train_loss"] for name in "abc"}
    assert losses["a"] == losses["b"] != losses["c"]


def test_seed_determines_dropout(make_experiment, tiny_videos, tmp_path):
    settings = make_experiment(optim__epochs=1).model_dump(mode="json")
    settings["method"] = {"name": "aim", "dropout": 0.5}
    for name, seed in (("a", 0), ("b", 0), ("c", 3)):
        torch.rand(1)  # The run must not depend on the random state before it.
        start(ExperimentConfig.load({**settings, "seed": seed}), tiny_videos, tmp_path / name).fit(
            lambda metrics: None
        )
    losses = {name: history(tmp_path / name)[0]["train_loss"] for name in "abc"}
    assert losses["a"] == losses["b"] != losses["c"]


def test_tensorboard_has_settings_and_scalars_per_epoch(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__epochs=2)
    by_epoch = []

    def look(metrics):
        events = EventAccumulator(str(tmp_path)).Reload()
        plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        by_epoch.append((b"optim.lr" in plugin, [e.step for e in events.Scalars("val/top1")]))

    settings = {"hparams": {"optim.lr": 0.01}, "objective": "mean_of_last_2"}
    last = start(experiment, tiny_videos, tmp_path, **settings).fit(look)
    assert by_epoch == [(True, [1]), (True, [1, 2])]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {
        "train/loss",
        "val/loss",
        "val/best_top1",
        "val/zero_shot_top1",
        "run/lr",
        "run/grad_norm",
        "scalars/mask_generator.sharpness",
        "scalars/context_generator.scale",
    } <= set(events.Tags()["scalars"])
    # The value on the leaderboard of a study with this objective.
    top1 = [scalar.value for scalar in events.Scalars("val/top1")]
    assert [scalar.value for scalar in events.Scalars("val/mean_top1")] == pytest.approx(
        [top1[0], sum(top1) / 2]
    )
    assert top1[-1] == pytest.approx(last["val_top1"])
    assert "RANDOM WEIGHTS" in str(events.Tensors("weights/text_summary")[0].tensor_proto.string_val)


_FILES = ("experiment.json", "videos.json")
WORKER = """
import json, sys, time
from pathlib import Path
from evclip_ray.training.build import build_method
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.datamodule import Videos
experiment = ExperimentConfig.load(json.loads(Path(sys.argv[1]).read_text()))
videos = Videos.load(Path(sys.argv[2]))
Run(experiment, videos, build_method(experiment, videos.classes), folder=Path(sys.argv[3])).fit(
    lambda metrics: (print("epoch", metrics["epoch"], flush=True), time.sleep(60))
)
"""


def test_killed_run_resumes_after_its_last_epoch(make_experiment, tiny_videos, tmp_path):
    # As in the killed process: another test of this worker may have set more.
    torch.set_num_threads(1)
    experiment = make_experiment()
    (tmp_path / "experiment.json").write_text(experiment.model_dump_json())
    tiny_videos.save(tmp_path / "videos.json")
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    command = [sys.executable, str(script), *(str(tmp_path / name) for name in _FILES), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline().strip() == "epoch 1"
        process.send_signal(signal.SIGKILL)
    epochs = []
    start(experiment, tiny_videos, tmp_path / "run").fit(lambda metrics: epochs.append(metrics["epoch"]))
    assert epochs == [2, 3]
    start(experiment, tiny_videos, tmp_path / "whole").fit(lambda metrics: None)
    killed = load_file(tmp_path / "run" / "last" / "adapter.safetensors")
    whole = load_file(tmp_path / "whole" / "last" / "adapter.safetensors")
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def _train_as_other_rank(process, folder):
    torch.set_num_threads(1)
    _train_as_rank(1, folder)


def _train_as_rank(rank, folder):
    # If one worker fails, the other one must not wait for the default of 30 minutes.
    meeting = {"init_method": f"file://{folder / 'meeting'}", "timeout": datetime.timedelta(minutes=2)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **meeting)
    experiment = ExperimentConfig.load(json.loads((folder / "experiment.json").read_text()))
    start(experiment, Videos.load(folder / "videos.json"), folder / "two").fit(lambda metrics: None)
    dist.destroy_process_group()


def test_two_workers_train_as_one(make_experiment, tiny_videos, tmp_path, measured):
    # 18 training videos in batches of 5 give the workers uneven shares and a last batch of 3.
    experiment = make_experiment(
        data__augment__crop="centre",
        data__augment__flip=0.0,
        optim__batch_size=5,
        optim__epochs=2,
        optim__lr=1e-3,
        # Its loss gathers rows of all workers. The first one measures its speed without them.
        method__consistency_weight=0.1,
    )
    (tmp_path / "experiment.json").write_text(experiment.model_dump_json())
    tiny_videos.save(tmp_path / "videos.json")
    # This process is rank 0: a second one would spend seconds on its imports.
    other = torch.multiprocessing.spawn(_train_as_other_rank, args=(tmp_path,), join=False)
    _train_as_rank(0, tmp_path)
    while not other.join():
        pass
    start(experiment, tiny_videos, tmp_path / "one").fit(lambda metrics: None)
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert min(two[0]["bare_share"], two[0]["matrix_share"]) > 0, "the first worker measures alone"
    for a, b in zip(one, two, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-4)
        assert a["val_top1"] == b["val_top1"]
    adapters = [load_file(tmp_path / name / "last" / "adapter.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(adapters[0][name], adapters[1][name], atol=2e-4) for name in adapters[0])
