"""The list of the book's questions, for the page of the reader's progress (book/progress)."""

import html
import json
import re

from docutils import nodes

PAGE = "book/progress"
PLACE = '<div class="dpo-progress"></div>'  # where that page has its table
ASKED = re.compile(
    r'<div class="dpo-question".*?<script type="application/json">(.*?)</script>', re.DOTALL
)


def collect(app, doctree):
    """Remember what a page asks: (name, question) in its order."""
    if not hasattr(app.env, "questions"):
        app.env.questions = {}
    texts = [raw.astext() for raw in doctree.findall(nodes.raw)]
    found = [json.loads(data) for text in texts for data in ASKED.findall(text)]
    app.env.questions[app.env.docname] = [(q["name"], q["question"]) for q in found]


def forget(app, env, docname):
    getattr(env, "questions", {}).pop(docname, None)


def merge(app, env, docnames, other):
    env.questions = getattr(env, "questions", {}) | {
        name: other.questions[name] for name in docnames if name in getattr(other, "questions", {})
    }


def renew(app, env):
    """The list changes with any page."""
    return [PAGE] if PAGE in env.all_docs else []


def fill(app, doctree, docname):
    """Put the table in its place."""
    for raw in list(doctree.findall(nodes.raw)):
        if PLACE in raw.astext():
            app.env.get_domain("math").data["has_equations"][docname] = True  # loads MathJax
            text = raw.astext().replace(PLACE, table(app, docname))
            raw.replace_self(nodes.raw("", text, format="html"))


def table(app, docname: str) -> str:
    """The questions of each page, linked to their places; assets/progress.js fills in the state."""

    def rows(page: str, asked: list) -> str:
        address = app.builder.get_relative_uri(docname, page)
        title = html.escape(app.env.titles[page].astext())
        return f'<tbody><tr><th colspan="2" scope="rowgroup">{title}</th></tr>' + "".join(
            f'<tr><td><a href="{address}#q-{name}">{question}</a></td>'
            f'<td data-name="{name}">open</td></tr>'
            for name, question in asked
        )

    pages = sorted((page, asked) for page, asked in app.env.questions.items() if asked)
    return (
        '<div class="dpo-progress"><p role="status"></p><table class="table"><thead><tr>'
        '<th scope="col">Question</th><th scope="col">You</th></tr></thead>'
        f"{''.join(rows(*page) + '</tbody>' for page in pages)}</table>"
        '<p><button type="button" hidden>Erase everything</button></p></div>'
    )


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", renew)
    app.connect("doctree-resolved", fill)
