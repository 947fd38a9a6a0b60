"""What the book needs from Sphinx beyond its configuration.

- the repository buttons point to the repository that is being built, also in a fork, and are
  left out where it has no address;
- a change in dpo_lib or in the requirements executes the chapters again;
- every build reads every page, so that a warning comes back until its cause is gone;
- mathematics is typeset by a local MathJax, and no page asks another machine for anything.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from functools import partialmethod
from pathlib import Path

from address import point_buttons
from nbclient import NotebookClient

# A line that a busy kernel sends in two pieces stays one line on the page.
NotebookClient.__init__ = partialmethod(NotebookClient.__init__, coalesce_streams=True)

MATHJAX = ["tex-svg.js", "a11y", "sre/mathmaps/base.json", "sre/mathmaps/en.json"]


def fingerprint(paths: Iterable[Path]) -> str:
    """Short hash of the names and contents of some files."""
    parts = (path.name.encode() + b"\0" + path.read_bytes() for path in sorted(paths))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def configure(app, config):
    root = Path(app.confdir)
    sys.path.insert(0, str(root))  # autodoc imports dpo_lib here, the kernels through PYTHONPATH
    os.environ["PYTHONPATH"] = str(root)
    os.environ["DPO_BOOK_BUILD"] = "1"  # dpo_lib.widgets then draws sliders that need no kernel
    os.environ["OMP_NUM_THREADS"] = "1"  # the tables are tiny: threads would wait for each other

    # The cache compares cells only; what the cells import and run on is in the folder's name.
    sources = [*(root / "dpo_lib").rglob("*.py"), root / "requirements.txt"]
    config.nb_execution_cache_path = str(root / "_build/.jupyter_cache" / fingerprint(sources))

    point_buttons(config.html_theme_options, root)


def pages_to_read(app, env, added, changed, removed):
    """Every page: Sphinx would skip an unchanged one, and the warnings that failed the last build.

    The reference takes as long as all others together. After a build without a warning it is
    left to Sphinx, which reads it again when the library changes.
    """
    clean = Path(app.doctreedir, "clean")
    if not clean.exists():
        return env.found_docs
    clean.unlink()
    return env.found_docs - {"book/api"}


def remember(app, exception):
    if exception is None and app._warncount == 0:
        Path(app.doctreedir, "clean").touch()


def start_empty(app):
    """Remove what an earlier build wrote, pages that no longer exist included; add MathJax."""
    shutil.rmtree(app.outdir)
    app.config.mathjax_path = "mathjax/tex-svg.js"
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for name in MATHJAX:
        original, copy = source / "static/mathjax" / name, Path(app.outdir, "_static/mathjax", name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, copy)
        else:
            shutil.copy(original, copy)
    Path(app.outdir, ".nojekyll").touch()  # GitHub Pages would drop _static


def drop_thebe(app, pagename, templatename, context, doctree):
    """Jupyter Book always loads sphinx-thebe, whose script throws on every page."""

    def is_thebe(file):
        body = getattr(file, "attributes", {}).get("body") or ""
        return "thebe" in f"{getattr(file, 'filename', file)}{body}".lower()

    for kind in ("script_files", "css_files"):
        context[kind][:] = [file for file in context[kind] if not is_thebe(file)]


def escape_bars(app, what, name, obj, options, lines):
    """|z| in a docstring is an absolute value, not a substitution of reStructuredText."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("config-inited", configure)
    app.connect("builder-inited", start_empty, priority=400)  # before sphinx.ext.mathjax
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("env-get-outdated", pages_to_read)
    app.connect("build-finished", remember)
    app.connect("html-page-context", drop_thebe, priority=900)  # after sphinx-thebe
    return {"parallel_read_safe": True, "parallel_write_safe": True}
