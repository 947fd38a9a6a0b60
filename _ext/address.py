"""The address of this repository on GitHub: that of the place it is in, never one it came from."""

import os
import re
import subprocess
from pathlib import Path

GITHUB = r"(?:^|[/@])(?:www\.|ssh\.)?github\.com(?::\d+/|[:/])"


def github_url(address: str) -> str | None:
    """The https address of a GitHub repository, without any token; None for any other address."""
    match = re.search(rf"{GITHUB}([\w.-]+/[\w.-]+?)(?:\.git)?/?$", address.strip())
    return f"https://github.com/{match[1]}" if match else None


def repository_url(root: Path) -> str | None:
    """Address of the GitHub repository that the tree at root is a clone of, or None."""
    if slug := os.environ.get("GITHUB_REPOSITORY"):  # set by GitHub Actions
        return f"https://github.com/{slug}"
    if not Path(root, ".git").exists():  # or git would answer for a repository around this one
        return None
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        return github_url(subprocess.run(command, capture_output=True, text=True).stdout)
    except FileNotFoundError:  # no git
        return None


def pages_url(root: Path, given: str = "") -> str | None:
    """Where the built book is published: what html_baseurl says, else GitHub Pages, else None."""
    if given:
        return given.rstrip("/") + "/"
    if not (url := repository_url(root)):
        return None
    owner, name = url.rsplit("/", 2)[1:]
    site = f"{owner.lower()}.github.io"
    return f"https://{site}/" if name.lower() == site else f"https://{site}/{name}/"


def point_buttons(theme: dict, root: Path) -> None:
    """Set the theme's buttons; without an address there are none that would lead nowhere."""
    theme["repository_url"] = url = repository_url(root) or theme.get("repository_url", "")
    for button in ("repository", "issues", "edit_page"):
        theme[f"use_{button}_button"] = bool(url)
    if not url:
        theme.pop("launch_buttons", None)
    if os.environ.get("GITHUB_REF_TYPE") == "branch":
        theme["repository_branch"] = os.environ["GITHUB_REF_NAME"]
