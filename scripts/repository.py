"""Write this repository's own address wherever it stands.

    python3 scripts/repository.py [ADDRESS] [--branch NAME] [--check]

ADDRESS is by default that of GITHUB_REPOSITORY or of git's remote "origin". The address of an
earlier owner is replaced. `--check` writes nothing and names each file that would change.

A copy without an address names none: the first cell of a notebook says what to do, and files name
OWNER/REPO (its GitHub page, or OWNER.github.io/REPO) in comments only. Such a comment becomes text
when the address is known: a line after "# ", or all between "<!--" and "-->" in Markdown.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
from address import github_url, repository_url  # noqa: E402

# Last come the files that name an earlier address for certain: an interrupted run can be repeated.
FILES = ["*.md", "docs/**/*.md", "book/*.md", ".github/**/*.md", ".github/**/*.yml",
         "pyproject.toml", "book/*.ipynb", "CITATION.cff", "_config.yml"]  # fmt: skip
PLACEHOLDER = "OWNER/REPO"
SLUG = r"([\w.-]+/[\w.-]+)"
OURS = re.compile(
    rf"github\.com/{SLUG}/archive/refs/heads/"
    rf"|^repository-code: https://github\.com/{SLUG}$"
    rf"|^  url: https://github\.com/{SLUG}$",
    re.MULTILINE,
)
GUARD = """import importlib.util

if importlib.util.find_spec("dpo_lib") is None:"""
INSTALL = "  # Colab\n    %pip install -q "
MISSING = """
    raise ModuleNotFoundError(
        'dpo_lib is missing: run %pip install "PATH{extra}" with '
        "the path of the folder or zip file that this book came in."
    )"""


def guard(slug: str | None, branch: str, extra: bool) -> str:
    """The first code cell of a notebook; without an address it says what a reader can do."""
    if slug is None:
        return GUARD + MISSING.format(extra="[language-model,lora]" if extra else "")
    archive = f"https://github.com/{slug}/archive/refs/heads/{branch}.zip"
    return GUARD + INSTALL + (f'"dpo-lib[language-model,lora] @ {archive}"' if extra else archive)


def pages(slug: str) -> str:
    """Where GitHub publishes the book of a repository, without https://."""
    owner, name = slug.split("/")
    site = f"{owner if slug == PLACEHOLDER else owner.lower()}.github.io"
    return site if name.lower() == site else f"{site}/{name}"


def uncomment(text: str, markdown: bool) -> str:
    """Make text of the comments that name the placeholder."""
    named = rf"(?:github\.com/{PLACEHOLDER}|{re.escape(pages(PLACEHOLDER))})\b"
    if not markdown:
        return re.sub(rf"^(\s*)# (.*{named}.*)$", r"\1\2", text, flags=re.MULTILINE)
    comment = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
    return comment.sub(lambda m: m[1] if re.search(named, m[1]) else m[0], text)


def renamed(text: str, old: str, slug: str) -> str:
    """The text with one address for another, and nothing else that begins like it."""
    ends = r"(?![\w-]|\.(?!git\b)\w)"
    text = re.sub(rf"(github\.com[/:]){re.escape(old)}{ends}", rf"\g<1>{slug}", text)
    return re.sub(rf"(?<![\w.-]){re.escape(pages(old))}{ends}", pages(slug), text)


def with_guard(text: str, slug: str, branch: str) -> str:
    """A notebook with the first code cell that belongs to the address."""
    book = json.loads(text)
    first, *others = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    extra = any("dpo_lib.language_model" in "".join(cell["source"]) for cell in others)
    source = guard(slug, branch, extra)
    if "".join(first["source"]) == source:
        return text
    first["source"] = source.splitlines(keepends=True)
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def changes(root: Path, slug: str, branch: str | None) -> dict[Path, str]:
    """What the files have to say that do not say it yet."""
    paths = [path for pattern in FILES for path in sorted(root.glob(pattern))]
    texts = {path: path.read_bytes().decode() for path in paths}
    config = texts[root / "_config.yml"]
    branch = branch or re.search(r"^  branch: (\S+)", config, re.MULTILINE)[1]
    found = {name for text in texts.values() for names in OURS.findall(text) for name in names}
    new = {}
    for path, text in texts.items():
        changed = uncomment(text, path.suffix == ".md")
        for old in sorted(found - {"", slug} | {PLACEHOLDER}):
            changed = renamed(changed, old, slug)
        archive = rf"(github\.com/{re.escape(slug)}/archive/refs/heads/).*?\.zip"
        changed = re.sub(archive, rf"\g<1>{branch}.zip", changed)
        if path.suffix == ".ipynb":
            changed = with_guard(changed, slug, branch)
        if path.name == "_config.yml":
            changed = re.sub(r"(?m)^  url: .*", f"  url: https://github.com/{slug}", changed)
            changed = re.sub(r"(?m)^  branch: .*", f"  branch: {branch}", changed)
        if changed != text:
            new[path] = changed
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?", help="https://github.com/…, git@github.com:…")
    parser.add_argument("--branch", help="what readers install from; by default as before")
    parser.add_argument("--check", action="store_true", help="only name the files to change")
    given = parser.parse_args()
    url = github_url(given.address) if given.address else repository_url(ROOT)
    if url is None:
        sys.exit(f"no GitHub address: {given.address or 'git has no such remote named origin'}")
    new = changes(ROOT, url.removeprefix("https://github.com/"), given.branch)
    for path, text in new.items():
        print(f"{path.relative_to(ROOT)}: {'not ' if given.check else ''}{url}", flush=True)
        if not given.check:
            whole = path.with_name(f".{path.name}.new")  # a file is the old one or the new one
            whole.write_bytes(text.encode())
            os.replace(whole, path)
    if given.check and new:
        sys.exit("another address or none stands there: python3 scripts/repository.py")


if __name__ == "__main__":
    main()
