"""Addresses of the paper's statements, and links to them from wherever their number stands.

An equation lives where a page first displays it with its `\\tag`, in the order of the book, and is
`#eq-4` there; a lemma or theorem where a block quote begins with its name, `#lemma-1`. A number
on a page that displays the equation itself leads to that page's own.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.nodes import make_refnode

TAG = re.compile(r"\\tag\{([^}]+)\}")
STATEMENT = re.compile(r"(?:Definition|Lemma|Theorem|Proposition) \d")
NUMBER = re.compile(
    r"(?<![\w.)\]])(?:(?P<of>PPO |InstructGPT )?\((?P<number>\d{1,2})\)"
    rf"|(?P<name>{STATEMENT.pattern}))"
)
OTHERS = re.compile(r"\b(?:gate|case|step|panel|part|item|row)s? $", re.I)  # "gate (3)" is none
NOT_IN = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.raw)


def key(tag: str) -> str:
    """`4` of \\tag{4}, `ppo-7` of \\tag{PPO 7}."""
    return re.sub(r"\W+", "-", tag.strip().lower())


def collect(app, doctree):
    """Give each displayed statement its address and remember it for the other pages."""
    here = {}
    for node in doctree.findall(nodes.math_block):
        if (tag := TAG.search(node.astext())) and f"eq-{key(tag[1])}" not in here:
            here[f"eq-{key(tag[1])}"] = node.astext()
            node["ids"].append(f"eq-{key(tag[1])}")
    for quote in doctree.findall(nodes.block_quote):
        for paragraph in quote.findall(nodes.paragraph):
            name = re.match(rf"({STATEMENT.pattern})\.", paragraph.astext())
            if name and key(name[1]) not in here:
                here[key(name[1])] = ""
                paragraph["ids"].append(key(name[1]))
    if not hasattr(app.env, "displayed"):
        app.env.displayed = {}
    app.env.displayed[app.env.docname] = here


def forget(app, env, docname):
    getattr(env, "displayed", {}).pop(docname, None)


def merge(app, env, docnames, other):
    env.displayed = getattr(env, "displayed", {}) | {
        name: other.displayed[name] for name in docnames if name in getattr(other, "displayed", {})
    }


def homes(env) -> dict[str, str]:
    """Statement -> the page where it lives."""
    found = {}
    for name in sorted(getattr(env, "displayed", {})):
        for target in env.displayed[name]:
            found.setdefault(target, name)
    return found


def link(app, doctree, docname):
    """Make a link of each statement's number in the text."""
    known, here = homes(app.env), app.env.displayed.get(docname, {})
    for text in list(doctree.findall(nodes.Text)):
        if any(isinstance(node, NOT_IN) for node in ancestors(text)):
            continue
        parts, end, words = [], 0, text.astext()
        for match in NUMBER.finditer(words):
            target = key(match["name"] or f"eq {match['of'] or ''}{match['number']}")
            home = docname if target in here else known.get(target)
            if home is None or OTHERS.search(words[: match.start()]):
                continue
            parts += [nodes.Text(words[end : match.start()])]
            parts += [reference(app, docname, home, target, match[0])]
            end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(words[end:])])


def ancestors(node):
    while (node := node.parent) is not None:
        yield node


def reference(app, docname: str, home: str, target: str, words: str) -> nodes.reference:
    """A link to a statement; assets/equations.js shows an equation beside it."""
    made = make_refnode(app.builder, docname, home, target, nodes.Text(words))
    made["classes"].append("dpo-eq")
    return made


def write_equations(app, exception):
    """All equations as a script: a page opened from disk may load one, but no JSON."""
    if exception is None and hasattr(app.env, "displayed"):
        known = homes(app.env).items()
        texts = {target: tex for target, home in known if (tex := app.env.displayed[home][target])}
        packed = json.dumps(dict(sorted(texts.items())), ensure_ascii=False)
        Path(app.outdir, "_static/equations-data.js").write_text(f"window.dpoEquations={packed};\n")


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-resolved", link)
    app.connect("build-finished", write_equations)
