"""A headless Chromium and a page in it, for the tests of the demo and for its picture in the docs.

``python tests/demo/browser.py docs/images/demo.png`` takes it: the page as it opens, after Segment and a click.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def served(*options, folder=None):
    """``cdam-fast demo`` in a process of its own: it and its address. Ended as by Ctrl-C. folder: for what it keeps."""
    command = [sys.executable, "-m", "cdam_fast", "demo", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"TMPDIR": str(folder)} if folder else {})
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's job may ignore it
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(process.stderr.read())
        yield process, line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def opened(address, width=1280, height=1500):
    """The page, loaded; ``page.elsewhere`` lists what it asked of other hosts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(_ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.elsewhere = []
            page.on(
                "request",
                lambda request: page.elsewhere.append(request.url) if not _is_near(request.url, address) else None,
            )
            page.set_default_timeout(20_000)
            page.goto(address)
            page.locator("#segment").wait_for()
            yield page
        finally:
            browser.close()


def _is_near(url, address):
    return url.startswith((address, "data:", "blob:"))


def remove(page):
    """The photograph that is there, if one is."""
    button = page.locator("#photo button[aria-label='Clear'], #photo button[aria-label='Remove Image']")
    if button.count():
        button.first.click()
        page.locator("#photo img").wait_for(state="detached")


def drop(page, path, taken=True):
    """A photograph into the page, in the place of the one that is there; waits until it is taken."""
    remove(page)
    page.locator("#photo input[type=file]").set_input_files(str(path))
    if taken:
        page.locator("#photo img").wait_for(state="attached")
        page.locator("#status .cdam-waiting").wait_for()


def type_words(page, words):
    """Words in the place of those that are there."""
    page.locator("#words textarea").fill(words)


def segment(page):
    """Press the button."""
    page.locator("#segment").click()


def status(page, text, kind="done"):
    """Wait for a line below the button that has the text."""
    line = page.locator(f"#status .cdam-{kind}", has_text=text)
    line.wait_for()
    return line.inner_text()


def save(page, path):
    """A picture of the whole page."""
    page.screenshot(path=str(path), full_page=True)
    return Path(path)


def main(path):
    """The first example, segmented, and the map of its middle; reduced to a palette."""
    from PIL import Image

    with served() as (_, address), opened(address, height=1240) as page:
        segment(page)
        status(page, "from photograph to labels")
        page.locator("#view-1 img").wait_for()
        box = page.locator("#view-1 img").bounding_box()
        page.locator("#view-1 img").click(position={"x": 0.25 * box["width"], "y": 0.45 * box["height"]})  # the circle
        page.locator("#map-1 img").wait_for()
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)  # pictures fade in
        save(page, path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
