"""Sphinx settings. `tox -e docs` builds the pages into `docs/_build`."""

from disheap.version import __version__

project = "disheap"
author = "The disheap developers"
release = version = __version__
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"disheap {version}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
