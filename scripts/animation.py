"""Film the slider of the built book's first page for the README: assets/book.gif."""

import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SIZE = {"width": 1000, "height": 720}

with sync_playwright() as playwright:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto((ROOT / "_build/html/book/00_start.html").as_uri())
    page.evaluate("window.MathJax?.startup.promise")
    slider = page.locator(".dpo-slider input[type=range]").first
    slider.evaluate("input => scrollTo(0, input.getBoundingClientRect().top + scrollY - 100)")
    steps = range(int(slider.get_attribute("max")) + 1)
    pictures = []
    for step in [*reversed(steps), *steps[::2]]:
        slider.evaluate(
            "(input, step) => { input.value = step;"
            " input.dispatchEvent(new Event('input', { bubbles: true })); }",
            step,
        )
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        pictures.append(picture.resize((750, 540)).quantize(128, dither=Image.Dither.NONE))
    browser.close()

first, *others = pictures
first.save(
    ROOT / "assets/book.gif",
    save_all=True,
    append_images=others,
    duration=180,
    loop=0,
    optimize=True,
)
