"""Configuration of the documentation. `make docs` builds it without a network; warnings are errors."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from evclip_ray import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from make_inventories import SITES  # noqa: E402

project = "evclip-ray"
author = "the evclip-ray authors"
copyright = "2026, the evclip-ray authors"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store"]

html_theme = "furo"
html_title = f"evclip-ray {release}"
html_static_path = ["_static"]
html_css_files = ["math.css"]
highlight_language = "none"
# Docstrings write code in single backticks.
default_role = "literal"

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The notebook runs on the smallest towers. Its result is cached under docs/_build and runs again when
# a code cell changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "jupyter_cache")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The inventories are committed, with only the names that these pages use, so that a build without a
# network resolves every reference. docs/make_inventories.py writes them.
intersphinx_mapping = {
    name: (site.url, str(HERE / "inventories" / f"{name}.inv")) for name, site in SITES.items()
}
intersphinx_timeout = 1


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw themselves: MathJax would be fetched from a network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))


def _inline_math(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_math(writer: Any, node: nodes.math_block) -> None:
    # The converter has align, but not aligned, which GitHub needs in these pages.
    formula = node.astext().replace("{aligned}", "{align*}")
    writer.body.append(f'<div class="math">{convert(formula, display="block")}</div>')
    raise nodes.SkipNode


html_math_renderer = "mathml"
