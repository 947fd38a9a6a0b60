"""Only what pages use is kept beside them: their icons, and files that a page or its files name.

The theme brings two thousand icons, three times: as drawings in a script, as rules of a style
sheet, and in fonts for readers without JavaScript.
"""

import re
from pathlib import Path

from fontTools import subset, ttLib

DRAWING = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
RULE = re.compile(r'\.fa-([\w-]+):+before\{content:"[^"]*"\}')
FONT = re.compile(
    r"url\(\.\./(vendor/fontawesome/webfonts/[\w-]+)\.woff2\) format\(\"woff2\"\),"
    r"url\(\.\./\1\.ttf\) format\(\"truetype\"\)"
)
GLYPH = re.compile(r'content:"\\(f[0-9a-f]{2,3})"')
TEXT = {".html", ".css", ".js"}


def icons_of(out: Path) -> set[str]:
    """Names of the icons that pages show and scripts add, "bars" of fa-bars."""
    scripts = (path for path in out.rglob("_static/**/*.js") if path.stem != "fontawesome")
    files = [*(page for page in out.rglob("*.html") if "_static" not in page.parts), *scripts]
    return {name for file in files for name in re.findall(r"\bfa-([\w-]+)", file.read_text())}


def keep_icons(out: Path, used: set[str]) -> None:
    """Take out of the theme's script, style sheet and fonts the icons that nothing uses."""

    def drawing(match: re.Match) -> str:
        return match[0] if used & {match[1], *re.findall(r"[\w-]+", match[2])} else ""

    script, style = (
        out / "_static" / name
        for name in ("scripts/fontawesome.js", "styles/pydata-sphinx-theme.css")
    )
    if not script.exists():  # another theme
        return
    script.write_text(DRAWING.sub(drawing, script.read_text()))
    rules = RULE.sub(lambda rule: rule[0] if rule[1] in used else "", style.read_text())
    glyphs = {int(code, 16) for code in GLYPH.findall(rules)}
    for name in FONT.findall(rules):
        keep_glyphs(out / "_static" / f"{name}.ttf", glyphs)
    style.write_text(FONT.sub(r'url(../\1.woff) format("woff")', rules))


def keep_glyphs(font: Path, glyphs: set[int]) -> None:
    """Write beside a font a smaller one of these characters, the same at each build."""
    options = subset.Options(flavor="woff", recalc_timestamp=False)
    whole = ttLib.TTFont(font, recalcTimestamp=False)
    some = subset.Subsetter(options)
    some.populate(unicodes=glyphs)
    some.subset(whole)
    subset.save_font(whole, str(font.with_suffix(".woff")), options)


def drop_unused(out: Path) -> None:
    """Remove the files of _static that no page names, nor a file that a page names.

    MathJax is left alone: it makes up the names of what it loads.
    """
    pages = [page for page in out.rglob("*.html") if "_static" not in page.parts]
    files = [f for f in out.glob("_static/**/*") if f.is_file() and "mathjax" not in f.parts]
    kept, new = set(), pages
    while new:
        text = "".join(file.read_text() for file in new if file.suffix in TEXT)
        new = [f for f in files if f not in kept and f.suffix != ".map" and f.name in text]
        kept |= set(new)
    for file in set(files) - kept:
        file.unlink()


def shrink(app, exception):
    if exception is None:
        out = Path(app.outdir)
        keep_icons(out, icons_of(out))
        drop_unused(out)


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("build-finished", shrink, priority=800)  # when all is written
