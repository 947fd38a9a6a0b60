"""Links in the text that set what moves on their page: `[β = 0.05](#beta=0.05)`.

`#beta=0.05` sets whatever has a beta there, `#fig-5-2&beta=0.05` one figure. What can be set says
so in its markup, `data-takes="beta labels"`; assets/address.js reads the link.
"""

import html
import re

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

LOG = logging.getLogger(__name__)
LINK = re.compile(r'<a class="dpo-set\b[^>]* href="#([^"]+)"')
TAKER = re.compile(
    r'data-takes="([^"]*)"(?:[^>]*>\s*<p class="dpo-title"><a class="dpo-number" id="([^"]+)")?'
)


class SettingLinks(SphinxTransform):
    """Keep these links as they are, before MyST looks for headings of their names."""

    default_priority = 878  # MyST's ResolveAnchorIds has 879

    def apply(self):
        for link in self.document.findall(nodes.reference):
            if link.get("id_link") and "=" in link["refuri"]:
                del link["id_link"]
                link["classes"].append("dpo-set")
                link["internal"] = True


def untaken(body: str) -> list[str]:
    """Links of a page, without #, that ask for something that no figure there takes."""
    takers = [(set(names.split()), figure) for names, figure in TAKER.findall(body)]
    wrong = []
    for link in map(html.unescape, LINK.findall(body)):
        figure, _, rest = link.partition("&") if "=" not in link.split("&")[0] else ("", "", link)
        wanted = {part.partition("=")[0] for part in rest.split("&")}
        asked = [names for names, own in takers if figure in ("", own)]
        if not wanted <= set().union(*asked):
            wrong.append(link)
    return wrong


def check(app, pagename, templatename, context, doctree):
    """Warn, and so fail a strict build, of links that set nothing."""
    for link in untaken(context.get("body", "")):
        LOG.warning(f"no figure of this page can be set by #{link}", location=pagename)


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.add_transform(SettingLinks)
    app.connect("html-page-context", check)
