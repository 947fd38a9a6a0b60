"""The whole book as one file to take along, and a link to it on every page."""

import zipfile
from pathlib import Path

NAME = "dpo-book.zip"
FOLDER = "dpo-book"  # that it unpacks to
SIZE = "SIZE-OF-THE-BOOK"  # until it is known
FIRST = '<meta http-equiv="Refresh" content="0; url={}.html" />\n'


def offer(app, pagename, templatename, context, doctree):
    """Add the link to the footer of a page."""
    link = f'<a href="{context["pathto"](NAME, 1)}" download>Download the whole book</a> ({SIZE})'
    said = context.get("theme_extra_footer", "")
    context["theme_extra_footer"] = f'{said} <span class="dpo-download">{link}</span>'


def pack(out: Path) -> int:
    """Write the archive, byte for byte the same for the same pages.

    Returns:
        its size in bytes.
    """
    files = [file for file in out.rglob("*") if file.is_file() and file.name[0] != "."]
    with zipfile.ZipFile(out / NAME, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(files):
            if file.name != NAME:
                name = f"{FOLDER}/{file.relative_to(out).as_posix()}"
                archive.writestr(entry(name), file.read_bytes())
    return (out / NAME).stat().st_size


def entry(name: str) -> zipfile.ZipInfo:
    """A file of an archive that knows neither when nor by whom it was written."""
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.compress_type, made.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return made


def finish(app, exception):
    """Pack twice: the pages say how large the archive is, and they are in it."""
    if exception is not None:
        return
    out = Path(app.outdir)
    # Jupyter Book would write it after this, and it is the page that the archive opens with.
    (out / "index.html").write_text(FIRST.format(app.config.root_doc))
    megabytes = max(1, round(pack(out) / 1e6))
    for page in out.rglob("*.html"):
        text = page.read_text()
        if SIZE in text:
            page.write_text(text.replace(SIZE, f"{megabytes} MB"))
    pack(out)


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("html-page-context", offer)
    app.connect("build-finished", finish, priority=900)  # the very last
