"""How Sphinx makes the documentation site; scripts/build_docs.sh runs it."""

import re
from functools import partial

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

from qsmflow.version import __version__

project = "qsmflow"
author = "the qsmflow developers"
copyright = "the qsmflow developers, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

# Markdown as GitHub reads it, equations included.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

# Docstrings say types, units and shapes; annotations would say the types twice.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
default_role = "py:obj"
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "qsmflow"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

#: Files outside of this folder that are pages of the site, too.
INCLUDED = {"benchmarks/RESULTS.md": "/benchmarks.md", "CHANGES.md": "/changes.md"}

DOI = re.compile(r"(?<![\w/])(10\.\d{4,9}/[^\s;,`<>]*[\w)])")
LITERAL = (".. math::", ">>>", "...")
#: Bars of an absolute value or a norm, which grow with what they hold only after \left, as in LaTeX.
BAR = re.compile("<mo>(?=&#x(?:0007C|02016);)")


def link_included(app, docname, source):
    """Lead links to files outside of this folder to the pages that include them."""
    for path, page in INCLUDED.items():
        source[0] = re.sub(rf"\]\((\.\./)+{re.escape(path)}", f"]({page}", source[0])


def skip_constants(app, what, name, obj, skip, options):
    """Leave numbers that steer an algorithm to the source, which is a click away."""
    return True if what == "module" and not callable(obj) else None


def tidy_docstring(app, what, name, obj, options, lines):
    """Make links of DOIs, and keep the bars of absolute values from being read as substitutions."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(LITERAL):
            lines[number] = DOI.sub(r"`\1 <https://doi.org/\1>`__", line.replace("|", r"\|"))


def write_mathml(writer, node, *, display):
    """Write an equation as MathML, which browsers set without a script or a font from elsewhere."""
    equation = BAR.sub('<mo stretchy="false">', convert(node.astext(), display=display))
    if "\\" in equation:
        logging.getLogger(__name__).warning("MathML knows no such command: %s", node.astext(), location=node)
    writer.body.append(
        f'<div class="equation" tabindex="0">{equation}</div>' if display == "block" else equation
    )
    raise SkipNode


def setup(app):
    """Register what is above with Sphinx."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(partial(write_mathml, display="inline"), None),
        block_renderers=(partial(write_mathml, display="block"), None),
    )
    app.connect("source-read", link_included)
    app.connect("autodoc-skip-member", skip_constants)
    # Before napoleon turns sections into fields.
    app.connect("autodoc-process-docstring", tidy_docstring, priority=400)
