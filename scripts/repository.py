"""Point every link of the book to the repository it lives in: `python scripts/repository.py`.

The address is that of the git remote "origin", or the one given as an argument.
"""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
from dpo_book import github_url, repository_url  # noqa: E402


def main(address: str | None) -> None:
    new = github_url(address) if address else repository_url(ROOT)
    if new is None:
        sys.exit(f"no GitHub address: {address or 'git has no such remote named origin'}")
    old = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    # _config.yml, which knows the old address, comes last: an interrupted run can be repeated.
    for pattern in ("book/*.ipynb", "book/*.md", "*.md", "CITATION.cff", "_config.yml"):
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text()
            if old in text:
                path.write_text(text.replace(old, new))
                print(f"{path.relative_to(ROOT)}: {new}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
