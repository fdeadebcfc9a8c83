"""The page in a real browser, headless; skipped where there is no Chromium."""

import os
import shutil
import socket
import zipfile

import pytest
from PIL import Image

import tagseg
from tagseg.app.explorer import MAX_BYTES
from tagseg.errors import BadInput

gradio = pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

BROWSER = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
WAIT = 60_000

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium; name one in CHROMIUM")


@pytest.fixture(scope="module")
def address(tiny_set):
    where = tagseg.explore(["timm:test_resnet"], ["random"], images=tiny_set / "images", side=64, block=False)
    yield where
    gradio.close_all()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 1400, "height": 1800}, accept_downloads=True)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#a-upload")
    yield opened
    away = [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))]
    opened.close()
    assert not away, f"the page asked the internet: {away}"


def upload(page, path, panel="a"):
    with page.expect_file_chooser() as chooser:
        page.click(f"#{panel}-upload")
    chooser.value.set_files(path)


def trail(page, panel="a") -> str:
    return page.inner_text(f"#{panel}-trail .prose")


def until(page, words: str, part: str = "trail", panel: str = "a") -> None:
    page.wait_for_function(
        "([part, words]) => (document.querySelector(part)?.innerText || '').includes(words)",
        arg=[f"#{panel}-{part}", words],
        timeout=WAIT,
    )


@needs_browser
def test_three_levels_down_and_back(page, tiny_set):
    upload(page, sorted((tiny_set / "images").iterdir())[0])
    page.wait_for_selector("#a-classes button img", timeout=WAIT)
    page.click("#a-classes button:has(img) >> nth=1")
    label = page.inner_text("#a-classes button:has(img) >> nth=1").rsplit(" ", 1)[0].strip()
    until(page, label)
    for depth in range(1, 4):
        page.click("#a-channels button:has(img) >> nth=0")
        page.wait_for_function(
            "depth => document.querySelector('#a-trail').innerText.split('→').length == depth + 1",
            arg=depth,
            timeout=WAIT,
        )
    assert page.locator("#a-details img").count() == 2
    page.click("#a-back")
    page.wait_for_function("document.querySelector('#a-trail').innerText.split('→').length == 3", timeout=WAIT)
    page.click("#a-hide")
    page.wait_for_function("document.querySelector('#a-trail').innerText.split('→').length == 1", timeout=WAIT)
    cells = page.locator("#a-scores tbody tr").first.locator("td").all_inner_texts()
    assert len(cells) >= 3


@needs_browser
def test_two_clicks_hide_what_lies_between_and_a_third_shows_it_again(page, tmp_path):
    Image.effect_noise((600, 500), 80).save(tmp_path / "noise.png")
    upload(page, tmp_path / "noise.png")
    page.wait_for_selector("#a-channels button img", timeout=WAIT)
    image = page.locator("#a-large img").first
    loaded = "() => { const i = document.querySelector('#a-large img'); return i.complete && i.naturalWidth > 0; }"
    page.wait_for_function(loaded, timeout=WAIT)  # a picture that has not arrived has no place to click
    box, whole = image.bounding_box(), image.get_attribute("src")
    image.click(position={"x": 0.35 * box["width"], "y": 0.45 * box["height"]})
    until(page, "opposite corner", "told")
    image.click(position={"x": 0.6 * box["width"], "y": 0.6 * box["height"]})
    page.wait_for_function("src => document.querySelector('#a-large img').src != src", arg=whole, timeout=WAIT)
    assert "opposite corner" not in page.inner_text("#a-told")
    page.click("#a-show")
    page.wait_for_function("src => document.querySelector('#a-large img').src == src", arg=whole, timeout=WAIT)


@needs_browser
def test_the_tree_comes_down(page, tiny_set, tmp_path):
    upload(page, sorted((tiny_set / "images").iterdir())[1])
    page.wait_for_selector("#a-channels button img", timeout=WAIT)
    page.click("#a-make")
    page.wait_for_selector("#a-download", timeout=WAIT)
    with page.expect_download() as download:
        page.click("#a-download")
    download.value.save_as(tmp_path / "tree.zip")
    with zipfile.ZipFile(tmp_path / "tree.zip") as archive:
        assert {"pyramid.png", "tree.json"} <= set(archive.namelist())


@needs_browser
def test_two_side_by_side(page, tiny_set):
    page.click("#compare input")
    for panel in ("a", "b"):
        upload(page, sorted((tiny_set / "images").iterdir())[0], panel)
        page.wait_for_selector(f"#{panel}-channels button img", timeout=WAIT)
    page.click("#b-classes button:has(img) >> nth=2")
    label = page.inner_text("#b-classes button:has(img) >> nth=2").rsplit(" ", 1)[0].strip()
    until(page, label, panel="b")
    assert label not in trail(page, "a")


@needs_browser
def test_bad_input_is_told_on_the_page(page, tmp_path):
    page.click("#a-back")
    until(page, "open a picture first", "told")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    upload(page, text)
    until(page, "notes.txt", "told")
    assert "Traceback" not in page.content()
    cut = tmp_path / "cut.png"
    Image.effect_noise((90, 90), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    upload(page, cut)
    until(page, "cut.png", "told")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_BYTES + 1))
    upload(page, large)
    page.wait_for_selector("text=exceed the maximum allowed size", timeout=WAIT)


def test_only_this_machine_is_served(address):
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in others:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((other, port), timeout=2).close()


def test_what_does_not_fit_is_told_before_anything_is_served(tiny_set, tmp_path):
    with pytest.raises(BadInput, match="at least one model"):
        tagseg.explore([])
    with pytest.raises(BadInput, match="2 weights for 1 models"):
        tagseg.explore(["timm:test_resnet"], ["random", "random"])
    with pytest.raises(BadInput, match="no folder of pictures"):
        tagseg.explore(["timm:test_resnet"], ["random"], images=tmp_path / "none")
    with pytest.raises(BadInput, match="timm has no such network"):
        tagseg.explore(["timm:none_such"], ["random"])
    with pytest.raises(BadInput, match="given twice"):
        tagseg.explore(["timm:test_resnet"] * 2, ["random"])


def test_other_sites_are_refused_and_the_folder_is_private(address):
    import httpx

    assert httpx.get(address).status_code == 200
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(f"{address}gradio_api/upload", headers={"Origin": "http://evil.example"}).status_code == 403
    folder = os.environ["GRADIO_TEMP_DIR"]
    assert os.stat(folder).st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/run: there is no run", "run: there is no run"),
        ("'/tmp/a b/c.png' is damaged", "'a b/c.png' is damaged"),
        ("C:\\Users\\me\\x.png: no", "x.png: no"),
        ("choose 3/4 of them", "choose 3/4 of them"),
    ],
)
def test_no_absolute_paths_on_the_page(text, expected):
    from tagseg.app.page import without_paths

    assert without_paths(text) == expected
