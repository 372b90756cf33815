import pytest
import yaml

from evclip_ray.cli.train import describe_selected
from evclip_ray.records import EpochMetrics


def test_train_that_diverges_at_once_reports_no_score(
    call, debug_settings, tiny_manifest, tmp_path, local_ray
):
    config = tmp_path / "wild.yaml"
    # Without warm-up and clipping the weights overflow float32 in the first epoch.
    wild = {"optim.lr": 1e30, "optim.warmup_epochs": 0, "optim.clip_norm": None}
    config.write_text(yaml.safe_dump({**debug_settings, "data.manifest": str(tiny_manifest), **wild}))
    trained = call("train", config, "--out", tmp_path / "run")
    assert trained.exit_code == 1, trained.output
    assert "diverged" in trained.output
    assert "Lower optim.lr and choose a new --out" in trained.output
    assert "top-1" not in trained.output
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({"val_videos": 0}, "last epoch 3, trained on all training videos without validation"),
        ({"val_videos": 12, "selection": "last_epoch"}, "last epoch 3: val top-1 0.500 on 12 videos"),
        ({"val_videos": 12}, "best epoch 3: val top-1 0.500 on 12 videos"),
    ],
)
def test_result_names_the_epoch_that_is_selected(metrics, line):
    last = EpochMetrics.from_record({"epoch": 4, "best_epoch": 3, "best_val_top1": 0.5, **metrics})
    assert describe_selected(last).startswith(line)
