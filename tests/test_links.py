"""Every link of a built book leads somewhere, and none to a repository that it does not know."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from address import repository_url
from conftest import ROOT, URL, build_or_fail
from test_address import ELSEWHERE, FORK, REMOTES, git, write_address
from test_build import tiny_book

BUTTONS = r"dropdown-(?:launch|source)-buttons|btn-source-\w+|colab\.research|/issues/new|/edit/"
OUTSIDE = {"GITHUB_REPOSITORY": "", "GITHUB_REF_TYPE": ""}  # of GitHub's own machines


class Page(HTMLParser):
    """The anchors of a page, and what it leads to or loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}
        self.links += [named[key] for key in ("href", "src") if named.get(key)]


def pages_of(html: Path) -> list[Path]:
    """The pages, without the template that the theme leaves among its style sheets."""
    return [path for path in html.rglob("*.html") if "_static" not in path.parts]


def dead_links(html: Path) -> list[tuple[str, str]]:
    """Links of any page to a file or an anchor of the book that does not exist."""
    pages = {path.resolve(): Page(path) for path in pages_of(html)}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            found = target.is_file() and target.is_relative_to(html.resolve())
            place = fragment.split("&")[0]  # #fig-5-2&beta=0.3 sets a figure, #beta=0.3 any
            if found and place and "=" not in place and target in pages:
                found = place in pages[target].anchors
            if not found:
                dead.append((path.name, link))
    return dead


def outside_links(html: Path) -> set[str]:
    links = {link for path in pages_of(html) for link in Page(path).links}
    return {link for link in links if urlsplit(link).netloc}


def markup(html: Path) -> str:
    return "\n".join(path.read_text() for path in pages_of(html))


def one_page_book(root: Path, remote: str | None) -> Path:
    """A book of one chapter with the first cell of chapter 5, and this repository's own files."""
    tiny_book(root, "1 + 1")
    for name in ("README.md", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "book").mkdir()
    chapter = nbformat.read(ROOT / "book/05_optimal_policy.ipynb", 4)
    title = nbformat.v4.new_markdown_cell("# Page\n\n## Part\n\nSee [the part](#part).")
    first = next(cell for cell in chapter.cells if cell.cell_type == "code")
    chapter.cells = [title, first]
    (root / "page.ipynb").unlink()
    text = json.dumps(chapter, indent=1, ensure_ascii=False) + "\n"
    (root / "book/page.ipynb").write_text(text)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/page\n")
    if remote:
        git(root, "init")
        git(root, "remote", "add", "origin", remote)
    return root


def unpublished(root: Path) -> None:
    """Take the address of a published copy away again."""
    config = root / "_config.yml"
    config.write_text(re.sub(r"(?m)^  url: .*", '  url: ""', config.read_text()))


def test_a_book_without_an_address_has_no_dead_link_and_no_button_that_needs_one(tmp_path):
    root = one_page_book(tmp_path, None)
    unpublished(root)
    html = build_or_fail(root, **OUTSIDE)
    assert dead_links(html) == []
    text = markup(html)
    assert "github.com" not in "".join(outside_links(html))
    assert re.findall(BUTTONS, text) == []
    assert "OWNER" not in re.sub(r"<[^>]*>", "", text)
    for kept in ("btn-download-source-button", "btn-fullscreen-button"):
        assert kept in text, kept


@pytest.mark.parametrize("written", [False, True], ids=["as cloned", "address written"])
def test_a_book_with_a_remote_has_buttons_to_it_alone(tmp_path, written):
    root = one_page_book(tmp_path, REMOTES[0])
    if written:
        assert write_address(root).returncode == 0
    html = build_or_fail(root, **OUTSIDE)
    assert dead_links(html) == []
    text = markup(html)
    assert {link for link in outside_links(html) if "github" in link} == {
        FORK,
        f"{FORK}/edit/main/book/page.ipynb",
        *(
            f"{FORK}/issues/new?title=Issue%20on%20page%20%2F{page}.html&body=Your%20issue%20content%20here."
            for page in ("book/page", "genindex", "search")
        ),
        "https://colab.research.google.com/github/reader/fork/blob/main/book/page.ipynb",
    }
    assert len(set(re.findall(BUTTONS, text))) == 8, "the other test would not see them"
    code = (html / "_sources/book/page.ipynb").read_text()  # which is offered for download
    assert ("fork/archive/refs/heads/main.zip" in code) == written
    assert "OWNER" not in code + re.sub(r"<[^>]*>", "", text)  # colours cut it into pieces


def test_no_page_of_the_book_has_a_dead_link(built_book):
    assert dead_links(built_book) == []
    text = markup(built_book)
    assert "OWNER" not in re.sub(r"<[^>]*>", "", text)
    url = repository_url(ROOT) or URL
    if not url:
        assert re.findall(BUTTONS, text) == []
    ours = {link for link in outside_links(built_book) if "github.com" in link}
    assert {link for link in ours if not url or not link.startswith(url)} <= {
        f"https://github.com/{slug}/issues/32" for slug in ELSEWHERE
    }
