"""What the search can lead to: sections, terms, questions, statements, members of the library."""

import re
from collections.abc import Iterator

from docutils import nodes
from equations import NUMBER, TAG, key
from sphinx import addnodes

ROWS = ("book/glossary", "book/symptoms")  # pages whose table rows are entries
EXCERPT = 150  # characters of an entry that a result shows
UNREAD = (nodes.title, nodes.raw, nodes.literal_block, nodes.math_block, addnodes.desc_signature)
MATHEMATICS = [
    (r"\\beta\b", "β"),
    (r"\\(?:mathrm|mathbb|mathcal|operatorname|text)\b", ""),
    (r"\\[^a-z]|\\(?:big+|left|right|q?quad|[lr]angle)\b[lr]?", " "),
    (r"[\\{}$&]", ""),
]


class Entry:
    """Something that a result can lead to: its title, the names it answers to first, its text."""

    def __init__(self, title: str, anchor: str, names: tuple[str, ...] = ()):
        self.title, self.anchor, self.names = " ".join(title.split()), anchor, names
        self.page, self.text, self.bold = "", "", ""

    @property
    def excerpt(self) -> str:
        """How the text begins, cut between words."""
        text = " ".join(self.text.split())
        return text if len(text) <= EXCERPT else text[:EXCERPT].rpartition(" ")[0] + " …"


def address_rows(app, doctree):
    """Give each row of these pages' tables an address, `#kl-divergence`; notation needs none."""
    if app.env.docname in ROWS:
        for body in doctree.findall(nodes.tbody):
            for row in body.findall(nodes.row):
                if not row[0].next_node(nodes.math):
                    row["ids"].append(nodes.make_id(row[0].astext())[:50].rstrip("-"))


def entries_of(page: str, doctree: nodes.document, known: dict[str, str]) -> list[Entry]:
    """The entries of a page; `known` has the page on which each statement of the paper lives."""
    entries: list[Entry] = []

    def walk(node: nodes.Node, entry: Entry) -> None:
        if isinstance(node, nodes.strong):
            entry.bold += f" {node.astext()}"
        elif not isinstance(node, nodes.Inline):
            entry.text += " "
        # Of a docstring its first paragraph: the rest is for those who have arrived.
        short = isinstance(node, addnodes.desc_content)
        for child in node.children[: 1 if short else None]:
            begun = list(beginning(page, child, known, not entries))
            entries.extend(begun)
            place = begun[-1] if begun else entry
            if isinstance(child, nodes.Text):
                place.text += child.astext()
            elif isinstance(child, nodes.math):
                place.text += plain(child.astext())
            elif not isinstance(child, UNREAD):
                walk(child, place)

    walk(doctree, Entry("", ""))
    return entries


def beginning(page: str, node: nodes.Node, known: dict, first: bool) -> Iterator[Entry]:
    """The entry that begins at a node, if one does."""
    ids = node["ids"] if isinstance(node, nodes.Element) else []
    if isinstance(node, nodes.section):
        title = node.next_node(nodes.title).astext()
        number = re.match(r"(\d+)\. ", title)
        names = (f"chapter {number[1]}",) if first and number else ()
        yield Entry(title, "" if first else ids[0], names)
    elif isinstance(node, nodes.row) and page in ROWS and ids:
        yield row_entry(node)
    elif isinstance(node, addnodes.desc) and not isinstance(node.parent, addnodes.desc_content):
        yield Entry("", node[0]["ids"][0])  # its address is its name
    for target in (target for target in ids if known.get(target) == page):
        tag = TAG.search(node.astext())
        name = re.sub(r"(\d+)", r"(\1)", tag[1]) if tag else target.replace("-", " ")
        yield Entry(f"Equation {name}" if tag else name.capitalize(), target, (name,))


def row_entry(row: nodes.row) -> Entry:
    """A term of the glossary answers to its words, without remarks in brackets; a question to none.

    "(DPO)" and "(이점)" behind a word are other words for it, "(of a fit)" and "(손실의) " are not.
    """
    *terms, _ = (cell.astext() for cell in row)
    alone = re.sub(r"\((?:[a-z][^()]*\)|[^()]*\) )", "", ", ".join(terms))
    names = re.split(r"[,()]", alone) if len(terms) > 1 else []
    return Entry(" · ".join(terms), row["ids"][0], tuple(names))


def plain(tex: str) -> str:
    r"""Mathematics as it may stand in a line of text: `\beta\log Z(x)` is "β log Z(x)"."""
    for pattern, word in MATHEMATICS:
        tex = re.sub(pattern, word, tex)
    return tex


def said_of_statements(doctree: nodes.document) -> dict[str, str]:
    """`eq-7` -> "the DPO loss", for every statement that the book's table of them names."""
    return {
        key(match["name"] or f"eq {match['number']}"): row[1].astext()
        for row in doctree.findall(nodes.row)
        for match in NUMBER.finditer(row[0].astext())
    }
