"""How long a click in the web explorer takes until the page shows the answer, in a real headless browser.

    python benchmarks/explorer.py IMAGE IMAGE --weights FILE --browser /usr/bin/chromium

Serves MobileNetV2 (timm's `mobilenetv2_100`) and, for every picture, opens it, clicks three levels down, back once, and
hides what the channel looks at. The browser runs on the same processor. The first picture warms everything up.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import machine
from playwright.sync_api import Page, sync_playwright

import tagseg

_TRAIL = "(document.querySelector('#a-trail .prose')?.innerText || '')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    address = tagseg.explore(["timm:mobilenetv2_100"], [arguments.weights], block=False)
    seconds: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1500})
        page.goto(address)
        page.wait_for_selector("#a-upload")
        for number, image in enumerate(arguments.images):
            for name, taken in _visit(page, image).items():
                if number > 0:
                    seconds.setdefault(name, []).extend(taken)
        browser.close()
    print(f"{len(arguments.images) - 1} pictures, {machine()}\n\n| | seconds, median | longest |\n|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {np.median(taken):.2f} | {max(taken):.2f} |")


def _visit(page: Page, image: Path) -> dict[str, list[float]]:
    """Seconds by what was done."""
    found: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[[], None], steps: int) -> None:
        page.wait_for_timeout(700)
        before, begun = page.evaluate(f"() => {_TRAIL}"), time.perf_counter()
        act()
        page.wait_for_function(
            f"([steps, before]) => {{ const now = {_TRAIL}; return now != before && now.split('→').length == steps; }}",
            arg=[steps, before],
        )
        found.setdefault(name, []).append(time.perf_counter() - begun)

    def upload() -> None:
        with page.expect_file_chooser() as chooser:
            page.click("#a-upload")
        chooser.value.set_files(image)

    def channel() -> None:
        page.click("#a-channels button:has(img) >> nth=0")

    timed("open a picture", upload, 1)
    for level in range(3):
        timed("a channel", channel, level + 2)
    timed("back", lambda: page.click("#a-back"), 3)
    timed("hide what a channel looks at", lambda: page.click("#a-hide"), 1)
    return found


if __name__ == "__main__":
    main()
