"""Rules for imports between modules: layers, cycles, Ray and other libraries."""

import ast
import functools
from pathlib import Path

import evclip_ray

PACKAGE = Path(evclip_ray.__file__).parent
LAYERS = {
    "config": 0, "optional": 0, "artifacts": 0, "ray_internals": 0,
    "locking": 0, "claimed_folder": 0, "machine_faults": 0, "records": 0, "objective": 0,
    "class_names": 0, "formatting": 0, "progress": 0, "termination": 0, "version": 0,
    "data": 1, "models": 1,
    "features": 2, "metrics": 2, "world": 2,
    "training": 3, "domain_shift": 3,
    "profiling": 4,
    "tuning": 5,
    "scaling": 6, "evaluation": 6, "results": 6, "settings": 6,
    "reports": 7, "cluster": 7, "deploy": 7, "housekeeping": 7, "testing": 7,
    "api": 8,
    "cli": 9,
}  # fmt: skip
"""Package or top-level module -> layer. A module imports lower layers and its own package only."""

MAY_IMPORT_RAY = {
    "ray_internals.py",
    "data/shards/prepare.py",
    "data/shards/ray_nodes.py",
    "features/extract.py",
    "training/ray_trainer.py",
    "training/run_registry.py",
    "tuning/broken_gpu.py",
    "tuning/callbacks.py",
    "tuning/fit.py",
    "tuning/gpu_measurement.py",
    "tuning/preparation.py",
    "tuning/scheduler.py",
    "tuning/searcher.py",
    "tuning/stopper.py",
    "tuning/trainable.py",
    "cluster/address.py",
    "cluster/connection.py",
    "cluster/doctor.py",
    "cluster/jobs/client.py",
    "cluster/jobs/fetch.py",
    "cluster/lint/launcher.py",
    "cluster/nodes.py",
    "cluster/status.py",
    "deploy/server/app.py",
    "deploy/server/replica.py",
}
ONLY_IN = {"click": {"cli"}, "rich": {"cli"}, "optuna": {"tuning"}, "matplotlib": {"reports"}}
STRANGERS = [
    {"data", "models"},
    {"features", "metrics"},
    {"training", "domain_shift"},
    {"scaling", "evaluation"},
    {"reports", "cluster", "deploy"},
]


@functools.cache
def import_statements(path):
    """Return the import statements of a file, at its top and inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(path):
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def every_import():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        if part in {"__init__", "__main__"}:
            continue
        for module in imports_of(path):
            yield relative, part, module


def test_imports_only_lower_layers_or_own_package():
    seen = 0
    for path, part, module in every_import():
        if module.startswith("evclip_ray."):
            target = module.split(".")[1]
            if target == "search_spaces":
                continue
            seen += 1
            # The modules of layer 0 are one package in effect; the test of cycles orders them.
            is_lower = LAYERS[target] < LAYERS[part] or LAYERS[target] == LAYERS[part] == 0
            assert target == part or is_lower, f"{path} imports {module}"
    assert seen > 50


def test_packages_of_one_layer_do_not_import_each_other():
    for path, part, module in every_import():
        for pair in STRANGERS:
            if part in pair and module.startswith("evclip_ray."):
                assert module.split(".")[1] not in pair - {part}, f"{path} imports {module}"


def test_no_import_cycles_between_files():
    """Imports inside functions count too, because they only hide a cycle."""
    files = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    graph = {name: set(imported_files(path, files)) - {name} for name, path in files.items()}
    cycles = [sorted(group) for group in strongly_connected(graph) if len(group) > 1]
    assert not cycles


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_files(path, files):
    """Yield the package's files that one file imports, at its top or inside functions."""
    for node in import_statements(path):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in files:
                    yield inner
                elif node.module in files:
                    yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)


def strongly_connected(graph):
    """Return the strongly connected components of a graph {node: successors} (Tarjan 1972)."""
    index, low, stack, components = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for successor in graph[node]:
            if successor not in index:
                visit(successor)
                low[node] = min(low[node], low[successor])
            elif successor in stack:
                low[node] = min(low[node], index[successor])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(stack[start:])
            del stack[start:]

    for node in graph:
        if node not in index:
            visit(node)
    return components


def test_ray_is_imported_only_where_it_may_be():
    found = {str(path) for path, _, module in every_import() if module.split(".")[0] == "ray"}
    assert found
    assert found <= MAY_IMPORT_RAY, found - MAY_IMPORT_RAY


def test_private_names_of_ray_stay_in_one_module():
    private = ("ray.tune.execution", "ray.autoscaler", "ray.experimental")
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "ray_internals.py":
            continue
        for name in full_imports_of(path):
            parts = name.split(".")
            is_private = name.startswith(private) or any(part.startswith("_") for part in parts)
            assert parts[0] != "ray" or not is_private, f"{path} imports {name}; add it to ray_internals.py"


def full_imports_of(path):
    """Yield every imported module and every name imported from one, with its module in front."""
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_each_outside_library_stays_in_its_part():
    for path, part, module in every_import():
        allowed = ONLY_IN.get(module.split(".")[0])
        assert allowed is None or part in allowed, f"{path} imports {module}"


def test_methods_do_not_import_each_other():
    from evclip_ray.models.methods import METHODS

    folder = "evclip_ray.models.methods"
    files = {name: {f"{folder}.{name}", f"{folder}.settings.{name}"} for name in METHODS}
    all_files = set().union(*files.values())
    assert {where.partition(":")[0] for where in METHODS.values()} <= all_files
    for path, _, module in every_import():
        if module_name(PACKAGE / path) in all_files:
            assert module not in all_files - files[path.stem], f"{path} imports {module}"


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
