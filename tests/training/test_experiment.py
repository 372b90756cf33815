import pytest

from evclip_ray.config import ConfigError
from evclip_ray.training.experiment import ExperimentConfig

DATA = {"data": {"manifest": "videos.csv"}}


def test_defaults_are_the_published_prompts():
    experiment = ExperimentConfig.load(DATA)
    assert experiment.method.name == "ev_clip"
    assert experiment.method.prompts == "both"
    assert experiment.method.template == "A video of {}."


def test_config_round_trips_through_json():
    experiment = ExperimentConfig.load(DATA, {"method.mask.depth": 3, "optim.lr": 0.1})
    assert ExperimentConfig.load(experiment.model_dump(mode="json")) == experiment


def test_preset_is_replaced_by_explicit_settings():
    experiment = ExperimentConfig.load({**DATA, "preset": "published"}, {"optim.lr": 1e-5})
    assert experiment.optim.lr == 1e-5
    assert experiment.optim.epochs == 500
    assert experiment.view.fit == "stretch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method.name": "ev_clop"}, "method 'ev_clop' is unknown; did you mean 'ev_clip'"),
        ({"backbone.name": "ViT-B-17"}, "did you mean 'ViT-B-16'"),
        ({"method.mask.dept": 2}, "did you mean 'method.mask.depth'"),
        ({"view.num_frames": 5}, "view.num_frames must be even"),
        ({"data.manifest": None}, "needs either a manifest"),
        ({"preset": "publishd"}, "did you mean 'published'"),
        ({"optim.epochs": 0}, "at least 1, got 0"),
        ({"optim.scalar_lr_factor": 0}, "optim.scalar_lr_factor: .*greater than 0, got 0"),
        ({"optim.scalar_lr_factor": float("inf")}, "optim.scalar_lr_factor: .*finite"),
    ],
)
def test_wrong_setting_names_the_path_and_the_fix(overrides, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig.load(DATA, overrides)


def test_cached_views_is_another_name_of_bank():
    experiment = ExperimentConfig.load(DATA, {"data.cached_views": 4})
    assert experiment.data.bank == 4
    assert "cached_views" not in experiment.model_dump()["data"]
    with pytest.raises(ConfigError, match="same setting, got 4 and 8"):
        ExperimentConfig.load(DATA, {"data.cached_views": 8, "data.bank": 4})


@pytest.mark.parametrize(("backbone", "side"), [("ViT-B-16", 256), ("ViT-L-14-336", 384), ("debug", 73)])
def test_short_side_follows_the_backbone(backbone, side):
    view = ExperimentConfig.load(DATA, {"backbone.name": backbone}).view
    assert (view.fit, view.short_side) == ("short_side", side)


def test_frames_smaller_than_the_input_are_refused_or_reported():
    large = {"backbone.name": "ViT-L-14-336"}
    with pytest.raises(ConfigError, match=r"short_side=256 is less than the 336 pixels .* set it to 384"):
        ExperimentConfig.load(DATA, {**large, "view.short_side": 256})
    assert ExperimentConfig.load(DATA, large).enlarged_frames is None
    earlier = ExperimentConfig.load(DATA, {**large, "view.fit": "crop"})
    assert "256 pixels are enlarged to the 336 pixels of ViT-L-14-336" in earlier.enlarged_frames


def test_misspelled_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'data.allow_leaks'"):
        ExperimentConfig.load({"data": {"manifest": "a.csv", "allow_leak": True}})
