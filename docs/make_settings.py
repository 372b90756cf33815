"""Write the page of all settings from the config classes.

python docs/make_settings.py
"""

from pathlib import Path

from evclip_ray.models.methods import METHODS
from evclip_ray.settings import Setting, list_settings

PAGE = Path(__file__).parent / "settings.md"
_HEAD = (
    "# Settings\n\n"
    "Every setting of an experiment and of a study. `evclip-ray settings [PREFIX]` prints the same list, "
    "with the settings of installed methods. Fix one with `--set PATH=VALUE` or in the section `fixed` of a "
    "[search space](search_spaces.md), or search it in its section `search`. `docs/make_settings.py` writes "
    "this page.\n"
)


def page() -> str:
    """Return the text of the page."""
    groups: dict[str, list[Setting]] = {}
    for setting in list_settings():
        groups.setdefault(setting.path.partition(".")[0] if "." in setting.path else "", []).append(setting)
    # `seed` and `precision` are in no group; they come last.
    order = [name for name in groups if name] + [name for name in groups if not name]
    return "\n".join([_HEAD, *(_section(name, groups[name]) for name in order)])


def _section(name: str, settings: list[Setting]) -> str:
    is_method = name == "method"
    title = f"`{name}`" if name else "Others"
    head = (
        "| setting | methods | type | default | description |"
        if is_method
        else ("| setting | type | default | description |")
    )
    lines = [f"## {title}", "", head, "|" + "---|" * (head.count("|") - 1)]
    for one in settings:
        cells = [f"`{one.path}`", one.kind, f"`{one.default}`", one.description]
        if is_method:
            # Methods of other packages depend on what is installed.
            cells.insert(1, ", ".join(name for name in one.methods if name in METHODS) or "all")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
