"""Proofs that a reader can change: a control under each cell of algebra, and under each proof of
the ledger.

A page holds the text of its claims and what they need of earlier cells (slicing.py), nothing
else; Python is loaded when a reader asks for it, from live/ beside the pages, which is there
where `make live` came before the build. It is not in the archive of the book: a page that is
opened from disk may not load it.
"""

import json
import shutil
import zipfile
from pathlib import Path

from archive import entry
from docutils import nodes
from slicing import CLAIM, Statement, cut, feeding, statements

LEDGER, OWN = "book/ledger", "book/try_a_statement"
EDITS = json.loads(Path(__file__).with_name("live_edits.json").read_text())
CONTROL = '<div class="dpo-live" data-cell="{}" hidden></div>'
DATA = '<script type="application/json" class="dpo-live-data">{}</script>'
SYMPY_ONLY = (  # of dpo_lib, what needs no torch
    *("__init__.py", "_lazy.py", "statements/*.py"),
    *("statements/symbolic/*.py", "statements/proofs/*.py"),
)


def packed(data: dict) -> str:
    """JSON that may stand in a script."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def offer(book: dict, name: str) -> dict:
    """Put a control under each cell with a claim that a page can run, and the page's data there."""
    before: list[Statement] = []
    kept, data = [], {"setup": [], "cells": {}}
    for cell in book["cells"]:
        kept.append(cell)
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        if is_on_the_page(cell) and CLAIM.search(source) and (made := cut(before, source)):
            data["cells"][cell["id"]] = described(data["setup"], before, *made, name, cell["id"])
            kept.append(markdown(cell["id"], CONTROL.format(cell["id"])))
        before += statements(source)
    if data["cells"]:
        kept.append(markdown("data", DATA.format(packed(data))))
    return book | {"cells": kept}


def is_on_the_page(cell: dict) -> bool:
    """Whether a page has the cell's code: that of a question has its answer."""
    return not {"remove-input", "remove-cell"} & set(cell["metadata"].get("tags", []))


def described(setup: list[str], before: list, places: list[int], source: str, *where) -> dict:
    """A cell as the page's data have it; its set-up as places in the page's list."""
    texts = [before[place].text for place in places]
    setup += [text for text in texts if text not in setup]
    made = {"setup": [setup.index(text) for text in texts], "source": source}
    return made | edits(*where)


def edits(page: str, cell: str) -> dict:
    """The false edits that are suggested beside a cell, [label, old, new]."""
    found = [row[2:] for row in EDITS if row[:2] == [page, cell]]
    return {"edits": found} if found else {}


def markdown(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text, "id": f"live-{name}"}


def proofs(package: Path) -> dict:
    """Each `prove_…` function of a folder of modules, as a page's data have a cell."""
    data = {"setup": [], "cells": {}}
    for path in sorted(package.glob("*.py")):
        module = statements(path.read_text())
        for place, one in enumerate(module):
            if name := next((name for name in one.binds if name.startswith("prove_")), None):
                call = statements(f"{name}()")
                places = feeding([*module[: place + 1], *call], [place + 1])[:-2]
                source = one.text.strip("\n")
                made = described(data["setup"], module, places, source, "ledger", name)
                data["cells"][name] = {key: made[key] for key in ("setup", "source")}
    return data


def offer_in_the_ledger(app, doctree):
    """Put a control under each proof that the ledger names."""
    if app.env.docname != LEDGER:
        return
    found = {}
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().rpartition(".")[2]
        if name.startswith("prove_"):
            found[name] = edits("ledger", name)
            place = literal
            while not isinstance(place, nodes.bullet_list):
                place = place.parent
            control = nodes.raw("", CONTROL.format(name), format="html")
            place.parent.insert(place.parent.index(place) + 1, control)
    doctree += nodes.raw("", DATA.format(packed({"proofs": True, "cells": found})), format="html")


def offer_an_area(app, doctree):
    """On the page for statements of one's own: its first code is the set-up, the others fill it."""
    if app.env.docname != OWN:
        return
    setup, *examples = list(doctree.findall(nodes.literal_block))
    texts = [example.astext() for example in examples]
    labels = [example["names"][0].replace("-", " ") for example in examples]
    fill = [[label, "", text] for label, text in zip(labels, texts, strict=True)]
    cell = {"setup": [0], "source": "", "edits": fill}
    data = {"setup": [setup.astext()], "cells": {"own": cell}}
    html = CONTROL.format("own").replace("<div", "<div data-open") + DATA.format(packed(data))
    last = examples[-1]
    last.parent.insert(last.parent.index(last) + 1, nodes.raw("", html, format="html"))


def write_proofs(app, exception):
    """The ledger's proofs as a script, loaded at the first click: they are 45 kB."""
    root = Path(app.confdir)
    if exception is None and LEDGER in app.env.found_docs:
        found = packed(proofs(root / "dpo_lib/statements/proofs"))
        Path(app.outdir, "_static/live_proofs.js").write_text(f"window.dpoLiveProofs={found};\n")


def write_python(app, exception):
    """Put Python beside the pages, where it was fetched, with the library's algebra as it is."""
    root, target = Path(app.confdir), Path(app.outdir, "live")
    if exception is not None or not (root / "_live/made.json").exists():
        return
    shutil.copytree(root / "_live", target)
    files = sorted(file for part in SYMPY_ONLY for file in (root / "dpo_lib").glob(part))
    with zipfile.ZipFile(target / "library.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(entry(file.relative_to(root).as_posix()), file.read_bytes())
    wheels = sorted(file.name for file in target.glob("*.whl"))
    (target / "made.json").write_text(json.dumps({"packages": [*wheels, "library.zip"]}))


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-read", offer_in_the_ledger)
    app.connect("doctree-read", offer_an_area)
    app.connect("build-finished", write_proofs)
    app.connect("build-finished", write_python, priority=950)  # after the archive is packed
