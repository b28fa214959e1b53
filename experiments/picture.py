"""Screenshot of consecutive sections of a report.

    clickflax report studies/objectives --out report.html
    python experiments/picture.py report.html curves pairs --out experiments/objectives.png

It needs Playwright and Chromium.
"""

import argparse
import pathlib
import shutil

from playwright.sync_api import FloatRect, sync_playwright

WIDTH, MARGIN = 900, 16  # pixels


def take(report: pathlib.Path, sections: list[str], out: pathlib.Path) -> None:
    """Writes the screenshot, at twice the resolution of the page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise FileNotFoundError("Chromium is not installed: install it, such as with apt-get.")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=2)
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("body[data-drawn=yes]")
        boxes = [page.locator(f"#{section}").bounding_box() for section in sections]
        found = [box for box in boxes if box is not None]
        top = min(box["y"] for box in found) - MARGIN
        bottom = max(box["y"] + box["height"] for box in found)
        clip = FloatRect(x=0, y=top, width=WIDTH, height=bottom - top + MARGIN)
        page.screenshot(path=out, full_page=True, clip=clip)
        chromium.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("sections", nargs="+", help="tables, differences, curves, pairs, ...")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    flags = parser.parse_args()
    take(flags.report, flags.sections, flags.out)


if __name__ == "__main__":
    main()
