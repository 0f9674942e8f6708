"""The page, in headless Chromium over npm's onnxruntime-web, served from a folder as it stands."""

import base64
import functools
import http.server
import shutil
import threading
from contextlib import contextmanager

import pytest

from .hosts import CASES, difference, installed, run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("npm"), reason="node and npm are not installed"),
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed"),
]
READY = "document.querySelector('#status').className || !document.querySelector('#draw').disabled"
DRAWN = "document.querySelector('#draw').textContent === 'Draw'"


class Quiet(http.server.SimpleHTTPRequestHandler):
    isolated = False

    def log_message(self, *_):
        pass

    def end_headers(self):
        if self.isolated:  # what lets a page use threads
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


class Isolated(Quiet):
    isolated = True


@contextmanager
def served(folder, handler=Quiet):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(single, tmp_path_factory):
    """Made as browser/site.mjs says."""
    folder = installed("browser", tmp_path_factory)
    done = run("node", folder / "site.mjs", single, folder / "site")
    assert done.returncode == 0, done.stderr
    return folder / "site"


def opened(browser, address):
    page = browser.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.goto(address)
    page.wait_for_function(READY, timeout=120_000)
    return page


def draw(page, case, file):
    page.fill("#prompt", case.prompt)
    page.fill("#seed", str(case.seed))
    page.select_option("#steps", str(case.steps))
    page.evaluate(f"document.querySelector('#guidance').value = {case.guidance}")
    page.fill("#negative", case.negative)
    page.click("#draw")
    page.wait_for_function(DRAWN, timeout=120_000)
    assert f"{case.steps} step" in page.text_content("#status")
    file.write_bytes(base64.b64decode(page.get_attribute("#save", "href").partition(",")[2]))


@pytest.mark.parametrize("handler", [Quiet, Isolated], ids=["one thread", "threads"])
def test_the_pictures_are_pythons(browser, site, pictures, tmp_path, handler):
    with served(site, handler) as address:
        page = opened(browser, address)
        assert page.evaluate("crossOriginIsolated") == handler.isolated
        for case in CASES:
            draw(page, case, tmp_path / "picture.png")
            assert difference(tmp_path / "picture.png", pictures[case]) <= 1
        assert page.problems == []
        assert page.locator("#earlier img").count() == len(CASES)
        page.close()


def test_it_shows_the_picture_on_its_way_and_can_be_stopped(browser, site):
    with served(site) as address:
        page = opened(browser, address)
        page.select_option("#steps", "20")
        page.click("#draw")
        page.wait_for_function("document.querySelector('#status').textContent.includes('step 2 of 20')")
        assert 0 < page.evaluate("document.querySelector('#progress').value") < 1
        colours = "new Set(document.querySelector('#picture').getContext('2d').getImageData(0, 0, 128, 128).data).size"
        assert page.evaluate(colours) > 20  # a preview
        page.click("#draw")
        page.wait_for_function("document.querySelector('#status').textContent.startsWith('Stopped after step')")
        assert page.text_content("#draw") == "Draw"
        page.close()


def test_a_long_prompt_is_cut_and_said_so(browser, site):
    with served(site) as address:
        page = opened(browser, address)
        page.fill("#prompt", "a b " * 30)
        page.select_option("#steps", "1")
        page.click("#draw")
        page.wait_for_function(DRAWN, timeout=120_000)
        assert "The prompt's last 30 tokens did not fit." in page.text_content("#status")
        page.close()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing", "model/pipeline.onnx is not there (404): put what diffrt export"),
        ("damaged", "pipeline.onnx is damaged, or no ONNX file"),
        ("foreign", "this ONNX file is no single graph of diffrt"),
        ("lone", "model/vocab.json is not there (404)"),
    ],
)
def test_errors_are_said_on_the_page(browser, site, wrong, tmp_path, model, message):
    copy = shutil.copytree(site, tmp_path / "site", ignore=shutil.ignore_patterns("model"))
    if model in wrong:
        shutil.copytree(wrong[model], copy / "model")
    with served(copy) as address:
        page = opened(browser, address)
        assert message in page.text_content("#status")
        assert page.get_attribute("#status", "class") == "bad" and page.is_disabled("#draw")
        page.close()


def test_site_says_what_is_missing(site, tmp_path):
    done = run("node", site.parent / "site.mjs", tmp_path, tmp_path / "site")
    assert done.returncode == 2 and "pipeline.onnx is missing: is it DEST?" in done.stderr
