"""Mixup in the loop (loop.py): it changes the training loss and draws from the epoch's seed."""

import json

import pytest

from evclip_ray.training.loop import Run


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_mixed_run_differs_and_resumes_identically(make_experiment, tiny_videos, tmp_path):
    mixed = make_experiment(data__augment__mixup=0.8, optim__epochs=2)

    def interrupt(metrics):
        raise KeyboardInterrupt

    for folder in ("whole", "parts"):
        run = Run.start(mixed, tiny_videos, folder=tmp_path / folder)
        if folder == "parts":
            with pytest.raises(KeyboardInterrupt):
                run.fit(interrupt)
            run = Run.start(mixed, tiny_videos, folder=tmp_path / folder)
        run.fit(lambda metrics: None)
    plain = make_experiment(optim__epochs=1)
    Run.start(plain, tiny_videos, folder=tmp_path / "plain").fit(lambda metrics: None)
    losses = {
        name: [row["train_loss"] for row in history(tmp_path / name)] for name in ("whole", "parts", "plain")
    }
    assert losses["whole"] == pytest.approx(losses["parts"], abs=1e-5)
    assert losses["whole"][0] != pytest.approx(losses["plain"][0], abs=1e-3)
