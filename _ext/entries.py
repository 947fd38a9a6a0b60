"""What the search can lead to: sections, terms, questions, statements, members of the library."""

import re
from collections.abc import Iterator
from unicodedata import lookup

from docutils import nodes
from equations import NUMBER, TAG, key
from sphinx import addnodes

ROWS = ("book/glossary", "book/symptoms")  # pages whose table rows are entries
EXCERPT = 130  # characters of an entry that a result shows
UNREAD = (nodes.title, nodes.thead, nodes.raw, nodes.literal_block, nodes.math_block)
UNREAD += (addnodes.desc_signature,)
GREEK = r"\\(?:var)?(alpha|beta|gamma|epsilon|eta|theta|kappa|pi|sigma|tau|phi)\b"
LAYOUT = r"\\(?:hat|mathrm|mathbb|mathcal|text|[Bb]igg?[lr]?|left|right)\b|[{}$]|\\\W"


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
        for child in read(node):
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


def read(node: nodes.Node) -> list[nodes.Node]:
    """What of a node is text: of a row what is not its title, of a docstring how it begins."""
    if isinstance(node, nodes.row) and node["ids"]:
        return node.children[-1:]
    return node.children[: 1 if isinstance(node, addnodes.desc_content) else None]


def beginning(page: str, node: nodes.Node, known: dict, first: bool) -> Iterator[Entry]:
    """The entry that begins at a node, if one does."""
    ids = node["ids"] if isinstance(node, nodes.Element) else []
    if isinstance(node, nodes.section):
        title = title_of(node)
        number = re.match(r"(\d+)\. ", title)
        names = (f"chapter {number[1]}",) if first and number else ()
        yield Entry(title, "" if first else ids[0], names)
    elif isinstance(node, nodes.row) and page in ROWS and ids:
        yield row_entry(node)
    elif isinstance(node, addnodes.desc) and not isinstance(node.parent, addnodes.desc_content):
        yield from (Entry("", name) for name in node[0]["ids"][:1])  # its address is its name
    for target in (target for target in ids if known.get(target) == page):
        tag = TAG.search(node.astext())
        name = re.sub(r"(\d+)", r"(\1)", tag[1]) if tag else target.replace("-", " ")
        yield Entry(f"Equation {name}" if tag else name.capitalize(), target, (name,))


def title_of(section: nodes.section) -> str:
    parts = section.next_node(nodes.title).children
    return "".join(plain(x.astext()) if isinstance(x, nodes.math) else x.astext() for x in parts)


def row_entry(row: nodes.row) -> Entry:
    """A term of the glossary answers to its words, without remarks in brackets; a question to none.

    "(DPO)" and "(이점)" behind a word are other words for it, "(of a fit)" and "(손실의) " are not.
    """
    *terms, _ = (cell.astext() for cell in row)
    alone = re.sub(r"\((?:[a-z][^()]*\)|[^()]*\) )", "", ", ".join(terms))
    names = re.split(r"[,()]", alone) if len(terms) > 1 else []
    return Entry(" · ".join(terms), row["ids"][0], tuple(names))


def plain(tex: str) -> str:
    r"""Mathematics in a line of text: `\beta\log Z(x)` is "β log Z(x)"; fractions are dots."""
    tex = re.sub(GREEK, lambda name: lookup(f"GREEK SMALL LETTER {name[1]}"), tex)
    tex = re.sub(
        r"\\(?:hat|mathrm|mathbb|mathcal|text|[Bb]igg?[lr]?|left|right)\b|[{}$]|\\\W", "", tex
    )
    tex = re.sub(r"\\(ln|log|exp|max|min) *", r" \1 ", tex).replace("\\mid", "|")
    return " … " if "\\" in tex else tex


def said_of_statements(doctree: nodes.document) -> dict[str, str]:
    """`eq-7` -> "the DPO loss", for every statement that the book's table of them names."""
    return {
        key(match["name"] or f"eq {match['number']}"): row[1].astext()
        for row in doctree.findall(nodes.row)
        for match in NUMBER.finditer(row[0].astext())
    }
