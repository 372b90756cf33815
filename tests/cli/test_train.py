import yaml


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
