"""Print what CHANGELOG.md says of a tag, if version and date are there: `release.py v0.1.0`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(root: Path, tag: str) -> str:
    """The section of a release; exits with one line where tag, version and section disagree."""
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.M)[1]
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version in pyproject.toml {version}")
    changelog = (root / "CHANGELOG.md").read_text()
    heading = rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |^\[|^<!--|\Z)"
    section = re.search(heading, changelog, re.M | re.S)
    if section is None or not section[1].strip():
        sys.exit(f"CHANGELOG.md has no section of {version} with a date")
    return section[1].strip()


if __name__ == "__main__":
    print(notes(ROOT, sys.argv[1]))
