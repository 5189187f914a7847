"""How the site is built from these pages: ``make docs`` writes it to ``build/docs``, and a warning is an error."""

from mllmu.version import __version__

project = "mllmu"
copyright = "the mllmu authors, MIT"  # noqa: A001 - Sphinx reads this name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # tools/check_links.py checks all links, also those that leave docs/

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config, model_post_init"}
napoleon_google_docstring = True
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "params_style"), ("Settings", "params_style")]

html_theme = "furo"
html_title = f"mllmu {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
exclude_patterns = ["images", "static"]
