"""Sphinx settings: `sphinx-build -W docs docs/_build`."""

from disheap.version import __version__

project = "disheap"
author = "The disheap developers"
release = version = __version__
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
