"""How long a reader waits for a verdict in the page: the first one of a page, and later ones.

Run from the repository's root, after `make live book`. Serves _build/html, opens chapter 5 and the
ledger in headless Chromium with nothing in its cache, and prints a Markdown table of seconds.
"""

import os
import shutil
import sys
import threading
import time
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Locator, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from build import Quiet

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPEN = "document.querySelectorAll('details').forEach(e => { e.open = true; })"


def seconds(place: Locator) -> float:
    """From opening a proof, or running it again, to its verdict."""
    start = time.perf_counter()
    if not place.locator("textarea").is_visible():
        place.locator(".dpo-live-bar button").first.click()
    place.get_by_role("button", name="Run", exact=True).click()
    place.locator("[role=status][data-verdict=proved]").wait_for(timeout=120_000)
    return time.perf_counter() - start


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="_build/html"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"args": ["--no-sandbox"], "executable_path": os.environ.get("CHROMIUM", CHROMIUM)}
    print("| page | first verdict | later: mean | slowest |\n|---|--:|--:|--:|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        for name in ("05_optimal_policy", "ledger"):
            page = browser.new_context().new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/book/{name}.html")
            page.evaluate(OPEN)
            first, *later = [seconds(place) for place in page.locator(".dpo-live").all()]
            mean = sum(later) / len(later)
            print(f"| {name} | {first:.1f} s | {mean:.2f} s | {max(later):.2f} s |")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
