"""Two layers: the main line of a page, and what is folded under headings that begin with "Depth:".

A notebook shows such a section like any other; a built page folds it, and says how long each
layer takes to read.
"""

import json
import re
from pathlib import Path

from docutils import nodes
from fast_path import where_next

DEPTH = "Depth: "
HEADING = re.compile(r"^(#+) +(.*)", re.MULTILINE)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
UNREAD = re.compile(r"<(script|svg|style|details)\b.*?</\1>|<[^>]*>", re.DOTALL)
MATHEMATICS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.DOTALL)  # each is read as one word
WORDS_A_MINUTE, SECONDS_A_LINE = 150, 6
SECONDS = json.loads(Path(__file__).with_name("seconds.json").read_text())


def sizes(book: dict) -> tuple[tuple[int, int], tuple[int, int]]:
    """Words and visible lines of code of an executed notebook: of its main line, and of it all."""
    main, everything = [0, 0], [0, 0]
    level = 0  # of the depth section that the text is in, 0 if in none
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            shown = "hide-input" not in cell["metadata"].get("tags", [])
            lines = shown * sum(bool(line.strip()) for line in source.splitlines())
            printed = words(" ".join(map(output, cell["outputs"])))
            for layer in [everything] if level else [everything, main]:
                layer[0] += printed
                layer[1] += lines
        else:
            everything[0] += words(source)
            for part in re.split(r"^(?=#+ )", FOLDED.sub("", source), flags=re.MULTILINE):
                if heading := HEADING.match(part):
                    deep = len(heading[1])
                    if heading[2].startswith(DEPTH):
                        level = level or deep
                    elif deep <= level:
                        level = 0
                main[0] += 0 if level else words(part)
    return tuple(main), tuple(everything)


def output(out: dict) -> str:
    """What a reader meets of a cell's output: the words of a figure are its caption's."""
    data = out.get("data", {})
    kinds = (out.get("text"), data.get("text/html"), data.get("text/plain"))
    return UNREAD.sub(" ", "".join(next((kind for kind in kinds if kind), "")))


def words(text: str) -> int:
    """How many words a reader meets in Markdown."""
    text = MATHEMATICS.sub(" formula ", re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text))
    return len(re.findall(r"\w[\w'’.,/-]*", text))


def minutes(size: tuple[int, int]) -> int:
    """To read so many words and lines of code."""
    return max(1, round(size[0] / WORDS_A_MINUTE + size[1] * SECONDS_A_LINE / 60))


def state_times(book: dict, name: str) -> dict:
    """Say in the line "You need" of a page how long it takes to read, to run, and what is next."""
    main, everything = map(minutes, sizes(book))
    folded = f"; {everything} with all that is folded" if everything > main else ""
    running = max(5, 5 * round(SECONDS.get(name, 5) / 5))
    said = f" **Time** {main} minutes{folded}. Its cells run in about {running} seconds."
    said += where_next(name)
    for cell in book["cells"]:
        source = "".join(cell["source"])
        cell["source"] = re.sub(r"(?m)^\*\*You need\*\* .*$", lambda line: line[0] + said, source)
    return book


def fold(app, doctree, docname):
    """Put each depth section between <details> and </details>, its heading in the summary."""
    for section in doctree.findall(nodes.section):
        title = section.next_node(nodes.title)
        if title is not None and title.astext().startswith(DEPTH):
            section["classes"].append("dpo-depth")
            rest = section.children[1:]
            parts = ["<details><summary>", title, "</summary>", *rest, "</details>"]
            section.children = []
            section.extend(
                nodes.raw("", part, format="html") if isinstance(part, str) else part
                for part in parts
            )


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-resolved", fold)
