"""The floors of the house: what may import what."""

import ast
from pathlib import Path

import evclip_ray

PACKAGE = Path(evclip_ray.__file__).parent
FLOORS = {
    "config": 0, "artifacts": 0, "exclusive": 0,
    "data": 1, "models": 1,
    "features": 2, "evaluation": 2,
    "training": 3,
    "tuning": 4,
    "scaling": 5, "deploy": 5,
    "reports": 6,
    "cluster": 7,
    "cli": 8, "terminal": 8,
}  # fmt: skip
MAY_IMPORT_RAY = {
    "data/shards.py", "data/nodes.py", "features/extract.py", "training/trainer.py", "training/at_work.py",
    "tuning/tuner.py", "tuning/search.py", "tuning/scheduler.py", "tuning/stopping.py",
    "tuning/preparation.py", "tuning/recorder.py", "tuning/trial.py",
    "cluster/connection.py", "cluster/address.py", "cluster/nodes.py", "cluster/launcher.py",
    "cluster/jobs.py", "cluster/status.py", "cluster/fetch.py", "cluster/simulation/trials.py",
}  # fmt: skip
ONLY_IN = {"click": {"cli"}, "rich": {"cli", "terminal"}, "optuna": {"tuning"}, "matplotlib": {"reports"}}
STRANGERS = [{"data", "models"}, {"features", "evaluation"}]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def every_import():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for module in imports_of(path):
            yield relative, part, module


def test_a_module_imports_only_lower_floors_or_its_own_package():
    seen = 0
    for path, part, module in every_import():
        if module.startswith("evclip_ray."):
            target = module.split(".")[1]
            if target == "search_spaces":
                continue
            seen += 1
            assert target == part or FLOORS[target] < FLOORS[part] or {target, part} == {"cli", "terminal"}, (
                f"{path} imports {module}"
            )
    assert seen > 50


def test_neighbours_on_a_floor_do_not_know_each_other():
    for path, part, module in every_import():
        for pair in STRANGERS:
            if part in pair and module.startswith("evclip_ray."):
                assert module.split(".")[1] not in pair - {part}, f"{path} imports {module}"


def test_ray_is_imported_only_where_it_may_be():
    found = {str(path) for path, _, module in every_import() if module.split(".")[0] == "ray"}
    assert found
    assert found <= MAY_IMPORT_RAY, found - MAY_IMPORT_RAY


def test_each_outside_library_stays_in_its_part():
    for path, part, module in every_import():
        allowed = ONLY_IN.get(module.split(".")[0])
        assert allowed is None or part in allowed, f"{path} imports {module}"


def test_methods_do_not_import_each_other():
    from evclip_ray.models.methods import METHODS

    files = {where.partition(":")[0] for where in METHODS.values()}
    for path, _, module in every_import():
        own = "evclip_ray." + ".".join(path.with_suffix("").parts)
        if own in files:
            assert module not in files - {own}, f"{path} imports {module}"


def test_the_command_line_starts_without_torch_and_ray():
    heavy = {"torch", "ray", "open_clip", "torchvision", "optuna"}
    files = sorted((PACKAGE / "cli").glob("*.py"))
    assert files
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & heavy, path
