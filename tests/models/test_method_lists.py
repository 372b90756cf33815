"""Lists of methods outside of the registry: the search space of all methods, and the documentation."""

from pathlib import Path

import yaml

from evclip_ray.models.methods import METHODS, find_method

ROOT = Path(__file__).parents[2]


def test_methods_space_has_one_range_for_every_trained_method() -> None:
    space = yaml.safe_load((ROOT / "search_spaces/methods.yaml").read_text())
    listed = space["search"]["method.name"]["choice"]
    assert set(listed) == {name for name in METHODS if find_method(name)().trains}
    with_range = [name for one in space["search"]["optim.lr"] for name in one["when"]["method.name"]]
    assert sorted(with_range) == sorted(listed)
    assert space["study"]["trials"] % len(listed) == 0


def test_every_method_has_a_documentation_page() -> None:
    pages = {path.stem for path in (ROOT / "docs/methods").glob("*.md")} - {"index"}
    assert pages == set(METHODS)
