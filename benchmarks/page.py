"""What moves on the pages: milliseconds from an input to the finished layout, figure by figure.

Run from the repository's root, after `make book`. Opens every page of _build/html in headless
Chromium, as wide as a desk's screen and as a phone's, takes every position of every slider, and 50
of each range of a workbench, and prints a Markdown table. A frame of the screen is 16 ms.
"""

import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PAGES = Path("_build/html/book")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"desk": 1280, "phone": 390}
PASSES = 5  # the median of each step: a single pass would time the machine's other work too
STEPS = """() => [...document.querySelectorAll(".dpo-slider, .dpo-workbench")].map(root => {
  const time = (element, change) => {
    const start = performance.now();
    change();
    element.dispatchEvent(new Event("input", { bubbles: true }));
    root.getBoundingClientRect();  // forces the layout
    return performance.now() - start;
  };
  const range = input => {
    const free = root.matches(".dpo-workbench"), low = Number(input.min), high = Number(input.max);
    const count = free ? 50 : high - low;
    return [...Array(count + 1).keys()].map(k =>
      time(input, () => { input.value = low + (high - low) * k / count; }));
  };
  const list = choice => [...choice.options].map((_, k) =>
    time(choice, () => { choice.selectedIndex = k; }));
  const all = (kind, steps) => [...root.querySelectorAll(kind)].flatMap(steps);
  const name = root.querySelector(".dpo-title")?.textContent ?? root.className;
  return [name, [
    ...all("input[type=range]", range),
    ...all("select", list),
    ...all("input[type=radio]", input => [time(input, () => { input.checked = true; })]),
  ]];
})"""


def steps(pages: list[Path], width: int) -> Iterator[tuple[str, list[float]]]:
    """Title and milliseconds of each step, for everything that moves on the pages."""
    options = {"args": ["--no-sandbox"], "executable_path": os.environ.get("CHROMIUM", CHROMIUM)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        page = browser.new_page(viewport={"width": width, "height": 844})
        for path in pages:
            yield from _on(page, path)
        browser.close()


def _on(page: Page, path: Path) -> Iterator[tuple[str, list[float]]]:
    page.goto(path.absolute().as_uri())
    page.evaluate("window.MathJax?.startup.promise")  # or its typesetting is timed too
    page.wait_for_timeout(500)
    for passes in zip(*(page.evaluate(STEPS) for _ in range(PASSES)), strict=True):
        times = [statistics.median(step) for step in zip(*(t for _, t in passes), strict=True)]
        if times:
            yield passes[0][0], times


def slowest(times: list[float]) -> float:
    """The 95th percentile, and of very few steps the slowest."""
    return sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]


def main() -> None:
    pages = sorted(PAGES.glob("*.html"))
    found = {name: dict(steps(pages, width)) for name, width in WIDTHS.items()}
    print("| milliseconds | steps |", *(f"{name}, median | 95% |" for name in WIDTHS))
    print("|---|---:|" + "---:|---:|" * len(WIDTHS))
    for title, times in found["desk"].items():
        both = (measured[title] for measured in found.values())
        cells = (f"{statistics.median(t):.1f} | {slowest(t):.1f} |" for t in both)
        print(f"| {title} | {len(times)} |", *cells)


if __name__ == "__main__":
    main()
