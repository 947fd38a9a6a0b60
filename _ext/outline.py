"""What a page says of its own parts: folded cells by what they hold, figures by their number."""

import re

# The first cell, which installs the library where it is missing; imports that nobody asked to see.
SETUP = re.compile(r".*\bfind_spec|(import|from) ", re.DOTALL)
ASKING = re.compile(r'class="dpo-(?:question|revisit)"')
NUMBERED = re.compile(r'<(?:figcaption|p class="dpo-title")>')


def label(name: str) -> str:
    """What stands before a page's figure numbers: 5 of 05_optimal_policy, M of misreadings."""
    number = re.match(r"\d+", name)
    return str(int(number[0])) if number else name[0].upper()


def outline(book: dict, name: str) -> dict:
    """An executed notebook as a page shows it; the notebook itself stays as it is.

    Args:
        book: the notebook, as JSON.
        name: of its file, without the ending.
    """
    join_folded(book)
    figures = 0
    for cell in (cell for cell in book["cells"] if cell["cell_type"] == "code"):
        tags = cell["metadata"].setdefault("tags", [])
        if "hide-input" in tags:
            if is_setup(cell):
                tags.append("remove-cell")
            if asks(cell):
                tags.append("remove-input")  # the code of a question has its answer
                tags.remove("hide-input")
            cell["metadata"]["mystnb"] = fold(cell)
        for output in cell["outputs"]:
            page = output.get("data", {})
            text = "".join(page.get("text/html", ""))
            if NUMBERED.search(text):
                figures += 1
                page["text/html"] = numbered(text, f"{label(name)}.{figures}")
    return book


def join_folded(book: dict) -> None:
    """Folded cells in a row are one, or a page would have two grey bars."""
    kept = []
    for cell in book["cells"]:
        before = kept[-1] if kept else None
        if before and folded(cell) and folded(before) and not before["outputs"]:
            kept.pop()
            cell["source"] = [*before["source"], "\n\n\n", *cell["source"]]
        kept.append(cell)
    book["cells"] = kept


def folded(cell: dict) -> bool:
    """Whether a cell's code is folded, and shown at all."""
    tags = cell["metadata"].get("tags", [])
    return "hide-input" in tags and not is_setup(cell) and not asks(cell)


def asks(cell: dict) -> bool:
    """Whether a cell's output is a question to the reader, or what became of a prediction."""
    return bool(ASKING.search(shown(cell)))


def shown(cell: dict) -> str:
    """The HTML that a cell's outputs put on the page."""
    return "".join("".join(out.get("data", {}).get("text/html", "")) for out in cell["outputs"])


def is_setup(cell: dict) -> bool:
    """Whether a page can do without the cell; the notebook keeps it."""
    return bool(SETUP.match("".join(cell["source"]))) and not cell["outputs"]


def fold(cell: dict) -> dict[str, str]:
    """The words on a folded cell, closed and open."""
    words = what_it_holds(cell)
    return {"code_prompt_show": words, "code_prompt_hide": words}


def what_it_holds(cell: dict) -> str:
    """A folded cell in a few words."""
    outputs = shown(cell)
    if "dpo-slider" in outputs:
        return "Code of this slider"
    if "dpo-workbench" in outputs:
        return "Code of this workbench"
    if "dpo-figure" in outputs:
        return "Code of this figure"
    if cell["outputs"]:
        return "Code of this table"
    held = re.search(r"^(?:assert|torch\.testing)\b", "".join(cell["source"]), re.MULTILINE)
    return "Numbers quoted above" if held else "Numbers for the figure below"


def numbered(text: str, number: str) -> str:
    """A figure's HTML with its number, by which it can be linked to."""
    address = f"fig-{number.replace('.', '-').lower()}"
    link = f'<a class="dpo-number" id="{address}" href="#{address}">Figure {number}</a> '
    return NUMBERED.sub(lambda opening: opening[0] + link, text, count=1)
