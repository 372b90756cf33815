import logging

import pytest
import torch

from evclip_ray.training import build
from evclip_ray.training.experiment import ExperimentConfig


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("has", [True, False])
def test_emulated_bfloat16_warns_once(precision, has, monkeypatch, caplog):
    monkeypatch.setattr(build, "has_bfloat16", lambda: has)
    build._warn_of_emulation.cache_clear()
    experiment = ExperimentConfig.load({"data": {"manifest": "videos.csv"}, "precision": precision})
    with caplog.at_level(logging.WARNING):
        dtypes = {build.autocast_dtype(experiment, torch.device("cpu")) for _ in range(3)}
    assert dtypes == {torch.bfloat16 if precision == "bfloat16" else None}
    warnings = [record for record in caplog.records if "emulates them" in record.getMessage()]
    assert len(warnings) == (precision == "bfloat16" and not has)
