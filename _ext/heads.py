"""What a page tells machines: which lines are Korean, what it is about, where one reads on."""

import html
import re
from pathlib import Path

from address import pages_url
from docutils import nodes

HANGUL = re.compile(r"[\uac00-\ud7a3]")
PICTURE = "social.png"  # scripts/social.py draws it
LONGEST = 160  # characters of a description that a search engine shows
LETTERS = {r"\beta": "β", r"\pi": "π", r"\sigma": "σ", r"\theta": "θ", r"\alpha": "α"}


def mark_korean(app, doctree):
    """Give Korean paragraphs their language, or a screen reader would spell them in English."""
    for paragraph in doctree.findall(nodes.paragraph):
        letters = re.findall(r"[^\W\d_]", paragraph.astext())
        if 3 * len(HANGUL.findall(paragraph.astext())) > len(letters) > 0:
            # A paragraph alone in a table's cell or a list's item leaves no tag of its own.
            around = isinstance(paragraph.parent, nodes.entry | nodes.list_item)
            (paragraph.parent if around else paragraph)["classes"].append("language-ko")


def describe(app, pagename, templatename, context, doctree):
    """Add a description, the first paragraph of its prose, for search engines and shared links."""
    if doctree is None:
        return
    prose = (p for p in doctree.findall(nodes.paragraph) if not isinstance(p.parent, nodes.entry))
    said = next((spoken(p) for p in prose), "")
    text = html.escape(shortened(" ".join(said.split())))
    title = html.escape(re.sub(r"<[^>]*>", "", context.get("title", "")))
    context["metatags"] = context.get("metatags", "") + (
        f'\n    <meta name="description" content="{text}">'
        f'\n    <meta property="og:title" content="{title}">'
        f'\n    <meta property="og:description" content="{text}">'
    )
    if address := pages_url(Path(app.confdir), app.config.html_baseurl):
        context["metatags"] += shared(address, f"{pagename}.html")


def shared(address: str, page: str) -> str:
    """What a shared link shows; services want whole addresses, so a book without one has none."""
    return (
        f'\n    <meta property="og:url" content="{address}{page}">'
        f'\n    <meta property="og:image" content="{address}_static/{PICTURE}">'
        '\n    <meta property="og:image:alt" content="A triangle of policies with a curve">'
        '\n    <meta name="twitter:card" content="summary_large_image">'
    )


def lead_on(app, pagename, templatename, context, doctree):
    """Lead from the first page to chapter 1, past the pages that are there to be looked up."""
    first = app.config.root_doc
    chapter = next((name for name in app.env.found_docs if "/01_" in name), first)
    for here, way, there in [(first, "next", chapter), (chapter, "prev", first)]:
        if pagename == here != there:
            title = app.builder.render_partial(app.env.titles[there])["title"]
            context[way] = {"link": app.builder.get_relative_uri(here, there), "title": title}


def spoken(paragraph: nodes.paragraph) -> str:
    """Its text, with formulas as one types them, `log(π/π_ref)`."""
    paragraph = paragraph.deepcopy()
    for formula in list(paragraph.findall(nodes.math)):
        text = formula.astext()
        for tex, letter in LETTERS.items():
            text = re.sub(re.escape(tex) + r"(?![a-z])", letter, text)
        text = re.sub(r"\\(mathrm|text|operatorname)\b|[\\{}]", "", text)
        formula.replace_self(nodes.Text(text))
    return paragraph.astext()


def shortened(text: str) -> str:
    """At most `LONGEST` characters, cut between words."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 1].rpartition(" ")[0] + "…"


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-read", mark_korean)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", lead_on)
