"""Records docs/browser.webp, the page after it has drawn. SITE is what browser/site.mjs makes.

python -m tests.embed.screenshot SITE
"""

import io
import sys
from pathlib import Path

from PIL import Image

from .test_browser import CHROMIUM, DRAWN, opened, served, sync_api

PICTURES = [("a blue heart", 2), ("a rocket", 4), ("a yellow flower", 2), ("a cat", 3), ("a slice of pizza", 4)]
FILE = Path(__file__).parents[2] / "docs" / "browser.webp"


def main(site: str) -> None:
    with sync_api.sync_playwright() as playwright, served(site) as address:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = opened(browser, address)
        page.set_viewport_size({"width": 840, "height": 800})
        for prompt, seed in [*PICTURES, ("a red apple", 2)]:
            page.fill("#prompt", prompt)
            page.fill("#seed", str(seed))
            page.click("#draw")
            page.wait_for_function(DRAWN, timeout=120_000)
        page.locator("#earlier img").last.wait_for()
        shot = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(shot)).convert("RGB").save(FILE, quality=88, method=6)


if __name__ == "__main__":
    main(sys.argv[1])
