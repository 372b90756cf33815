import optuna
import pytest

from evclip_ray.config import ConfigError
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import find_space, shipped_spaces

FIXED = {
    "data.manifest": "videos.csv",
    "backbone.name": "debug",
    "backbone.pretrained": "random",
    "method.video_encoder.name": "swin3d_debug",
}


def space(search, fixed=FIXED, **study):
    return SearchSpace.load("mine", {"fixed": fixed, "search": search, "study": study})


def test_distributions_draw_inside_their_bounds():
    mine = space(
        {
            "optim.lr": {"loguniform": ["1e-4", 1e-2]},
            "optim.weight_decay": {"uniform": [0.0, 0.5]},
            "method.mask.depth": {"int": [1, 3]},
            "method.mask.mlp_ratio": {"quantised": [1.0, 4.0, 0.5]},
            "optim.batch_size": {"quantised": [4, 16, 4]},
            "method.prompts": {"choice": ["both", "mask"]},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        drawn = mine.sample(study.ask())
        assert 1e-4 <= drawn["optim.lr"] <= 1e-2
        assert 0 <= drawn["optim.weight_decay"] <= 0.5
        assert drawn["method.mask.depth"] in (1, 2, 3)
        assert drawn["method.mask.mlp_ratio"] * 2 == int(drawn["method.mask.mlp_ratio"] * 2)
        assert drawn["optim.batch_size"] in (4, 8, 12, 16)
        assert isinstance(drawn["optim.batch_size"], int)
        mine.experiment(drawn)


def test_conditional_path_exists_only_if_condition_holds():
    mine = space(
        {
            "method.prompts": {"choice": ["mask", "context"]},
            "method.mask.depth": {"int": [1, 3], "when": {"method.prompts": ["mask"]}},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [mine.sample(study.ask()) for _ in range(40)]
    assert {d["method.prompts"] for d in drawn} == {"mask", "context"}
    assert all(("method.mask.depth" in d) == (d["method.prompts"] == "mask") for d in drawn)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"optim.lrr": {"uniform": [0.1, 1]}}, "did you mean 'optim.lr'"),
        ({"optim.lr": {"loguniform": [1e-2, 1e-4]}}, r"bounds must be \[low, high\].*reversed"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "needs low > 0"),
        ({"optim.lr": {"logunifrom": [1e-4, 1e-2]}}, "did you mean 'loguniform'"),
        ({"optim.lr": {"uniform": [0.1]}}, r"uniform needs \[low, high\], got \[0.1\]"),
        ({"optim.lr": {"uniform": [0.1, "fast"]}}, "uniform needs numbers, got 'fast'"),
        ({"optim.lr": {"uniform": [0.1, 1], "choice": [1]}}, "must name one distribution"),
        ({"optim.lr": 0.1}, "must be like"),
        ({"optim.lr": {"choice": []}}, "choice needs at least one value"),
        ({"optim.lr": {"choice": [0.1, 0.1]}}, "choices must differ"),
        ({"optim.lr": {"choice": [[1]]}}, "a choice must be"),
        ({"optim.lr": {"uniform": [-1, 1]}}, "optim.lr: must be greater than 0, got -1"),
        ({"method.mask.depth": {"int": [1, 2.5]}}, "int needs whole numbers"),
        ({"method.mask.mlp_ratio": {"quantised": [1, 2, 0]}}, "step > 0"),
        ({"backbone.name": {"choice": ["debug", "ViT-B-61"]}}, "did you mean 'ViT-B-16'"),
        ({"method.name": {"choice": ["ev_clip", "ev_clap"]}}, "did you mean 'ev_clip'"),
        ({"view.num_frames": {"int": [4, 8]}}, "must be a 'choice'"),
        ({"view.num_frames": {"choice": [8, 7]}}, "must be even"),
        ({"method.mask.depth": {"int": [1, 2], "when": {"method.promts": ["mask"]}}}, "must be listed"),
    ],
)  # fmt: skip
def test_invalid_space_is_refused_with_path_and_fix(search, message):
    with pytest.raises(ConfigError, match=message):
        space(search)


def test_method_without_trainable_parameters_is_refused():
    with pytest.raises(ConfigError, match="'zero_shot' has nothing to train"):
        space({"method.name": {"choice": ["zero_shot"]}}, fixed={"data.manifest": "videos.csv"})


def test_unknown_section_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown section 'serach'; did you mean 'search'"):
        SearchSpace.load("mine", {"fixed": FIXED, "serach": {}})


def test_pinned_setting_is_not_searched():
    data = {"fixed": FIXED, "search": {"optim.lr": {"uniform": [0.1, 1.0]}}}
    mine = SearchSpace.load("mine", data, {"optim.lr": "3e-4"})
    assert mine.search == ()
    assert mine.experiment().optim.lr == 3e-4


def test_unset_world_leaves_no_trace():
    """`--data` unsets it. Digests of studies that were begun before it existed stay equal."""
    search = {"optim.lr": {"uniform": [0.1, 1.0]}}
    pinned = {"data.manifest": "videos.csv", "data.world": None}
    other = {path: value for path, value in FIXED.items() if path != "data.manifest"}
    world = {"fixed": {"data.world.domain": "dark", **other}, "search": search}
    for mine in (SearchSpace.load("mine", world, pinned), SearchSpace.load("mine", world).replace(pinned)):
        assert mine.describe() == space(search).describe()


def test_variants_are_all_combinations_that_change_pixels():
    mine = space(
        {
            "view.num_frames": {"choice": [4, 8]},
            "optim.lr": {"uniform": [0.1, 1.0]},
            "data.shots": {"choice": [2, 4, 8]},
        }
    )
    variants = list(mine.decoded_variants())
    assert len(variants) == 6
    assert {"view.num_frames": 8, "data.shots": 2} in variants


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_shipped_spaces_are_valid_and_available_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {} if "data.world" in find_space(name).read_text() else {"data.manifest": "videos.csv"}
    by_name = read_space(find_space(name), overrides)
    by_path = read_space(find_space(f"search_spaces/{name}.yaml"), overrides)
    assert by_name == by_path
    assert by_name.search


def test_unknown_space_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_space("quickstrat")


REPLACEMENT = r"^`study.pack`: trial packing was removed. .*--gpus-per-worker 0.25 \(four trials per GPU\).$"


def test_space_with_pack_names_the_replacement():
    with pytest.raises(ConfigError, match=REPLACEMENT):
        space({"optim.lr": {"uniform": [0.1, 1]}}, pack=4)


def test_setting_study_pack_names_the_replacement():
    data = {"fixed": FIXED, "search": {"optim.lr": {"uniform": [0.1, 1]}}}
    with pytest.raises(ConfigError, match=REPLACEMENT):
        SearchSpace.load("mine", data, {"study.pack": 4})


BY_METHOD = {
    "method.name": {"choice": ["coop", "fine_tune", "linear_probe"], "balanced": True},
    "optim.lr": [
        {"loguniform": [1e-4, 1e-2], "when": {"method.name": ["coop", "linear_probe"]}},
        {"loguniform": [5e-7, 5e-5], "when": {"method.name": ["fine_tune"]}},
    ],
    "method.num_vectors": {"int": [4, 16], "when": {"method.name": ["coop"]}},
}
PLAIN = {"data.manifest": "videos.csv", "backbone.name": "debug", "backbone.pretrained": "random"}


def test_each_condition_has_its_own_range():
    mine = space(BY_METHOD, fixed=PLAIN)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        drawn = mine.sample(trial)
        seen.add(drawn["method.name"])
        assert (drawn["optim.lr"] < 1e-4) == (drawn["method.name"] == "fine_tune")
        assert mine.params_of(mine.point_of(drawn)) == trial.params
        mine.experiment(drawn)
    assert seen == {"coop", "fine_tune", "linear_probe"}
    assert mine.domains["optim.lr"] == ("interval", (5e-7, 1e-2))
    assert mine.describe()["search"]["optim.lr"] == (
        "loguniform(0.0001, 0.01) when method.name in ['coop', 'linear_probe']; "
        "loguniform(5e-07, 5e-05) when method.name in ['fine_tune']"
    )
    assert mine.describe()["search"]["method.name"] == "choice(coop, fine_tune, linear_probe) balanced"


def test_pinned_method_keeps_its_range():
    mine = SearchSpace.load("mine", {"fixed": PLAIN, "search": BY_METHOD}, {"method.name": "fine_tune"})
    assert mine.balanced is None
    drawn = mine.sample(optuna.create_study().ask())
    assert list(drawn) == ["optim.lr"]
    assert drawn["optim.lr"] <= 5e-5


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"optim.lr": []}, "a list needs at least one"),
        ({"optim.lr": [{"uniform": [0.1, 1]}, {"uniform": [1, 2]}]}, "could apply at the same time"),
        (
            {
                "method.name": {"choice": ["coop", "aim"]},
                "optim.lr": [
                    {"uniform": [0.1, 1], "when": {"method.name": ["coop", "aim"]}},
                    {"uniform": [1, 2], "when": {"method.name": "aim"}},
                ],
            },
            "could apply at the same time",
        ),
        (
            {
                "method.name": {"choice": ["coop", "aim"]},
                "optim.lr": [
                    {"uniform": [0.1, 1], "when": {"method.name": "coop"}},
                    {"choice": [1, 2], "when": {"method.name": "aim"}},
                ],
            },
            "must not mix choices with ranges",
        ),
        ({"optim.lr": {"uniform": [0.1, 1], "balanced": True}}, "of a choice without `when`"),
        ({"optim.lr": {"choice": [0.1, 1], "balanced": "yes"}}, "must be true or false"),
        (
            {
                "method.name": {"choice": ["coop", "aim"], "balanced": True},
                "optim.epochs": {"choice": [1, 2], "balanced": True},
            },
            "only one setting can be balanced, got method.name, optim.epochs",
        ),
        (
            {
                "method.name": {"choice": ["coop", "aim"]},
                "view.num_frames": [{"choice": [4], "when": {"method.name": "aim"}}],
            },
            "not a list of distributions",
        ),
    ],
)  # fmt: skip
def test_invalid_lists_and_balances_are_refused(search, message):
    with pytest.raises(ConfigError, match=message):
        space(search, fixed=PLAIN)


@pytest.mark.parametrize("objective", ["worst", "mean_of_last_0"])
def test_unknown_objective_of_a_study_is_refused(objective):
    with pytest.raises(ConfigError, match="mean_of_last_3"):
        space({}, objective=objective)


PROMPTS = {"choice": ["both", "context"]}
DEPTH = {"int": [1, 3]}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"method.prompts": PROMPTS, "method.mask.depth": {**DEPTH, "when": {"method.prompts": "mask"}}},
            "method.mask.depth: `when` never holds.* method.prompts is 'both' or 'context'",
        ),
        (
            {"method.mask.depth": {**DEPTH, "when": {"backbone.name": "ViT-B-16"}}},
            "`when` never holds.* backbone.name is 'debug'",
        ),
        (
            {"optim.lr": {"uniform": [0.1, 1]}, "method.mask.depth": {**DEPTH, "when": {"optim.lr": 0.5}}},
            "`when` never holds.* optim.lr is uniform",
        ),
        (
            {
                "method.prompts": PROMPTS,
                "method.mask.depth": {**DEPTH, "when": {"method.prompts": "both"}},
                "optim.clip_norm": {
                    "uniform": [1, 2],
                    "when": {"method.mask.depth": 2, "method.prompts": "context"},
                },
            },
            "optim.clip_norm: `when` never holds",
        ),
        (
            {
                "method.prompts": PROMPTS,
                "method.mask.depth": {**DEPTH, "when": {"method.prompts": ["both", "maks"]}},
            },
            "`when` has method.prompts = 'maks': .*'both', 'mask' or 'context'",
        ),
        (
            {
                "backbone.activation_checkpointing": {"choice": [True, False]},
                "optim.clip_norm": {
                    "uniform": [1, 2],
                    "when": {"backbone.activation_checkpointing": [False, "true"]},
                },
            },
            "'true', which is another value than true",
        ),
        ({"method.mask.depth": {**DEPTH, "when": "mask"}}, "`when` must be like"),
    ],
)
def test_condition_that_never_holds_is_refused(search, message):
    with pytest.raises(ConfigError, match=message):
        space(search)


def test_condition_on_a_valid_value_beyond_the_choices_is_kept():
    """The value stays behind where a space is narrowed; its text is part of a study's identity."""
    when = {"method.prompts": ["mask", "both"]}
    mine = space({"method.prompts": PROMPTS, "method.mask.depth": {**DEPTH, "when": when}})
    assert mine.describe()["search"]["method.mask.depth"].endswith("in ['mask', 'both']")


def test_condition_excluded_by_an_override_is_accepted():
    search = {"method.prompts": PROMPTS, "method.mask.depth": {**DEPTH, "when": {"method.prompts": "both"}}}
    data = {"fixed": FIXED, "search": search}
    mine = SearchSpace.load("mine", data, {"method.prompts": "context"})
    assert mine.sample(optuna.create_study().ask()) == {}


def test_condition_on_a_setting_of_the_ladder_is_accepted():
    rungs = {"small": {"method.prompts": "context"}, "large": {"method.prompts": "mask"}}
    search = {"method.mask.depth": {**DEPTH, "when": {"method.prompts": "mask"}}}
    fixed = {**FIXED, "method.prompts": "context"}
    mine = SearchSpace.load("mine", {"fixed": fixed, "search": search, "ladder": {"rungs": rungs}})
    assert mine.sample(optuna.create_study().ask()) == {}


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("view.num_frames", [8, 8.0]),
        ("optim.weight_decay", [1, True]),
        ("optim.lr", [0.05, "0.05"]),
        ("optim.lr", ["1e-3", 0.001]),
        ("backbone.activation_checkpointing", [True, "yes"]),
    ],
)
def test_choices_that_mean_one_value_are_refused(path, choices):
    with pytest.raises(ConfigError, match=f"{path}: choices must differ, but .* both mean"):
        space({path: {"choice": choices}})


def test_null_is_another_choice_than_the_default_it_selects():
    assert space({"view.short_side": {"choice": [None, 73]}}, fixed={**FIXED}).search


def test_group_of_fixed_settings_keeps_dotted_ones_before_it():
    mine = space({}, fixed={**FIXED, "optim.epochs": 5, "optim": {"lr": 0.1}})
    assert (mine.experiment().optim.epochs, mine.experiment().optim.lr) == (5, 0.1)


def test_section_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="search must be a mapping"):
        SearchSpace.load("mine", {"fixed": FIXED, "search": ["optim.lr"]})
