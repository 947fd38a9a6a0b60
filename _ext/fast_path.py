"""The fast path: from a first look to equation (7), marked in the list of pages."""

import re
from pathlib import PurePosixPath

PATH = (
    "00_start",
    "01_preferences",
    "03_objective",
    "05_optimal_policy",
    "06_implicit_reward",
    "07_dpo_loss",
)
LINK = re.compile(r'(<a class="[^"]*" href="([^"#]*)#?">[^<]*)</a>')
MARK = ' <span aria-hidden="true">◆</span><span class="dpo-unseen">(fast path)</span>'


def where_next(name: str) -> str:
    """A sentence for the head of a page that is on the path, in Markdown; else nothing."""
    if name not in PATH[1:]:
        return ""
    following = PATH[PATH.index(name) + 1 :]
    if not following:
        return " The [fast path](00_start.ipynb#the-fast-path) ends here."
    chapter = f"[Chapter {int(following[0][:2])}]({following[0]}.ipynb)"
    return f" Next on the [fast path](00_start.ipynb#the-fast-path): {chapter}."


def mark(html: str, here: str) -> str:
    """The list of pages, with a mark on those of the path."""

    def marked(link: re.Match) -> str:
        name = PurePosixPath(link[2] or here).stem
        return f"{link[1]}{MARK}</a>" if name in PATH else link[0]

    return LINK.sub(marked, html)


def mark_sidebar(app, pagename, templatename, context, doctree):
    if plain := context.get("generate_toctree_html"):
        context["generate_toctree_html"] = lambda *args, **kwargs: mark(
            str(plain(*args, **kwargs)), pagename
        )


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("html-page-context", mark_sidebar, priority=900)  # after the theme
