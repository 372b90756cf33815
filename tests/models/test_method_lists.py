"""Lists of methods outside of the registry: the search space of all methods, and the documentation."""

from pathlib import Path

import yaml

from evclip_ray.models.methods import METHODS, find_method

ROOT = Path(__file__).parents[2]


def test_methods_space_lists_every_trained_method() -> None:
    space = yaml.safe_load((ROOT / "search_spaces/methods.yaml").read_text())
    listed = space["search"]["method.name"]["choice"]
    # Full fine-tuning needs a learning rate a hundred times lower than the range of that space.
    left_out = {"fine_tune"}
    trained = {name for name in METHODS if find_method(name)().trains}
    assert set(listed) == trained - left_out


def test_every_method_has_a_documentation_page() -> None:
    pages = {path.stem for path in (ROOT / "docs/methods").glob("*.md")} - {"index"}
    assert pages == set(METHODS)
