"""The site's settings: `python -m sphinx -W --keep-going -n docs build/site` makes it of these pages."""

import importlib
import sys
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# `docs.site_extension` and the package are imported from here, whatever the current folder.
sys.path.insert(0, str(_ROOT))
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "vidgen_dist"
release = importlib.import_module("vidgen_dist").__version__
author = copyright = "the vidgen_dist authors"
html_title = f"vidgen_dist {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.site_extension"]
exclude_patterns = ["**/__pycache__"]
repository_url = _PROJECT["urls"]["Repository"]

# Anchors as GitHub makes them.
myst_heading_anchors = 4

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
# Quotes stay as they are written.
smartquotes_action = "D"
highlight_language = "none"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90
# Types of other packages have no page here, and no list of theirs is fetched: no network is needed.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_theme_options = {
    "source_repository": repository_url,
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
