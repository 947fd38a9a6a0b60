"""What the book needs from Sphinx beyond its configuration.

- the repository buttons point to the repository that is being built, also in a fork, and are
  left out where it has no address;
- chapters are executed side by side, and again only when what they depend on changes;
- a page has two layers, the deeper one folded, and says how long each takes to read; the fast
  path through them is marked in the list of pages;
- folded cells say what they hold, figures and equations have addresses, and the numbers of
  equations in the text lead to them; Korean lines are marked as such, pages have a description;
- links in the text set figures, `#beta=0.05`, and a link that nothing takes is a warning;
- the page of the reader's progress lists every question of the book;
- a cell of algebra can be changed and run in the page;
- after a build with a warning every page is read again, until its cause is gone;
- mathematics is typeset by a local MathJax, and no page asks another machine for anything;
- what no page uses is left out, and the whole book is one archive beside the pages.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import archive
import equations
import fast_path
import heads
import layers
import live
import questions
import searching
import setting_links
import shrink
from address import point_buttons
from execution import ChapterFailed, Chapters, execute_all, fingerprint, prepare
from outline import outline
from sphinx.errors import ExtensionError
from sphinx.util import logging

LOG = logging.getLogger(__name__)

PARTS = (
    *(equations, heads, layers, fast_path, setting_links),
    *(searching, questions, live, shrink, archive),
)
MATHJAX = ["tex-svg.js", "a11y", "sre/mathmaps/base.json", "sre/mathmaps/en.json"]


def configure(app, config):
    root = Path(app.confdir)
    sys.path.insert(0, str(root))  # autodoc imports dpo_lib here, the kernels through PYTHONPATH
    prepare(root)
    point_buttons(config.html_theme_options, root)


def execute(app):
    """Execute the chapters that need it; scripts/build.py has done so before, and shows how far."""
    chapters = app.chapters = Chapters(Path(app.confdir))
    try:
        execute_all(chapters, chapters.stale(), tell=lambda what, p: LOG.info(f"{what} {p.name}"))
    except ChapterFailed as error:
        raise ExtensionError(str(error)) from None


def insert_outputs(app, docname, source):
    """Give Sphinx the executed notebook; what its cells wrote to stderr is reported instead."""
    chapter = Path(app.env.doc2path(docname))
    if chapter.suffix != ".ipynb":
        return
    book, written = app.chapters.with_outputs(chapter, source[0])
    timed = layers.state_times(json.loads(book), chapter.stem)
    source[0] = json.dumps(live.offer(outline(timed, chapter.stem), chapter.stem))
    for text in written:
        LOG.warning(f"stderr, kept out of the page: {text.strip()}", location=docname)


def pages_to_read(app, env, added, changed, removed):
    """After a build with a warning every page, for Sphinx forgets it; else what was executed."""
    clean = Path(app.doctreedir, "clean")
    if not clean.exists():
        return env.found_docs
    clean.unlink()
    return {
        name
        for name, read in env.all_docs.items()  # microseconds
        if (kept := app.chapters.kept(Path(env.doc2path(name)))).exists()
        and kept.stat().st_mtime_ns // 1000 > read
    }


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
    app.connect("builder-inited", execute, priority=300)
    app.connect("builder-inited", start_empty, priority=400)  # before sphinx.ext.mathjax
    app.connect("source-read", insert_outputs)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("env-get-outdated", pages_to_read)
    app.connect("build-finished", remember)
    app.connect("html-page-context", drop_thebe, priority=900)  # after sphinx-thebe
    for part in PARTS:
        part.setup(app)
    ours = fingerprint(*(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.*"))))
    version = int(ours, 16)  # what these files do to a page is kept with it: read all again
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": version}
