import pytest

from evclip_ray.config import ConfigError
from evclip_ray.models.methods import METHODS
from evclip_ray.settings import list_settings
from evclip_ray.training.experiment import ExperimentConfig


def setting(path, method=None):
    return next(
        one for one in list_settings(path) if one.path == path and (method is None or method in one.methods)
    )


def test_setting_has_its_range_default_and_description():
    lr = setting("optim.lr")
    assert (lr.kind, lr.default) == ("number > 0", "0.0004")
    assert lr.description == "learning rate after the warm-up"


def test_description_comes_from_the_attributes_of_a_class():
    depth = setting("method.mask.depth")
    assert (depth.kind, depth.default, depth.methods) == ("integer >= 0", "2", ("ev_clip",))
    assert depth.description.startswith("Swin blocks per stage")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("method.context.width", "integer >= 1 or null"),
        ("data.world.dial", "number >= 0 and <= 1"),
        ("data.augment.scale", "list of number"),
        ("precision", "one of auto, float32, bfloat16"),
        ("data.features", "list of frame_features, video_map or null"),
        ("data.merge_labels", "true or false"),
        ("study.trials", "integer >= 1 or null"),
    ],
)
def test_kind_of_a_setting(path, kind):
    assert setting(path).kind == kind


def test_methods_with_equal_settings_share_a_row():
    heads = [one for one in list_settings("method.prompts") if one.path == "method.prompts"]
    assert sorted(one.methods for one in heads) == [("ev_clip",), ("ez_clip",)]


def test_every_setting_is_described_and_accepted():
    settings = list_settings()
    assert [one.path for one in settings if not one.description] == []
    # The default that the list gives is the one of a real experiment.
    experiment = ExperimentConfig.load({"data": {"manifest": "x.csv"}}).model_dump(mode="json")
    assert experiment["optim"]["epochs"] == int(setting("optim.epochs").default)
    assert {name for one in settings for name in one.methods} >= set(METHODS) - {"zero_shot"}


def test_unknown_prefix_names_the_nearest():
    with pytest.raises(ConfigError, match=r"none starts with 'optin'.*optim"):
        list_settings("optin")
