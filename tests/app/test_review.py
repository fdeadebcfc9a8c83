"""Looking through pseudo-masks: what comes first, what a click does, and what the next fit makes of it."""

import os
import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tagseg
from tagseg.app.doubt import _ranks, disagreement, mean_entropy
from tagseg.data.images import read_index_png
from tagseg.data.reading import read_dataset
from tagseg.files import read_json, write_json
from tests.conftest import TINY

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
BROWSER = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def test_what_speaks_against_a_mask():
    mask = np.array([[0, 1, 1, 255], [0, 0, 2, 2]])
    assert disagreement(mask, mask) == 0
    assert disagreement(np.array([[0, 1, 2, 3], [1, 0, 2, 0]]), mask) == pytest.approx(3 / 5)
    assert disagreement(np.zeros_like(mask), np.zeros_like(mask)) == 0
    assert mean_entropy(np.full((4, 3, 3), 0.25)) == pytest.approx(1)
    assert mean_entropy(np.eye(4)[..., None]) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(_ranks([3.0, 1.0, 2.0, 1.0]), [1, 1 / 6, 2 / 3, 1 / 6])
    np.testing.assert_allclose(_ranks([5.0]), [0])


@pytest.fixture
def run(tiny_run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))


@pytest.fixture
def review(run: Path) -> Any:
    opened = reopened(run)
    yield opened
    opened.close()


def test_the_most_doubtful_come_first_and_are_remembered(review: Any, run: Path):
    listed = review.listed()["photographs"]
    assert len(listed) == 10
    assert [p["doubt"] for p in listed] == sorted((p["doubt"] for p in listed), reverse=True)
    assert all("mask and network differ on" in p["why"] for p in listed)
    before = (run / "review" / "doubt.json").stat().st_mtime_ns
    review.close()
    again = reopened(run)
    assert again.listed() == review.listed()
    assert (run / "review" / "doubt.json").stat().st_mtime_ns == before
    again.close()


def test_decisions(review: Any, run: Path):
    before, name = review.mask(0), review.samples[0].name
    drawn = np.where(before == 0, 1, before).astype(np.uint8)
    with pytest.raises(tagseg.BadInput, match="nothing was drawn"):
        review.decide(0, "corrected")
    assert review.correct(0, drawn.tobytes()) == "corrected"
    np.testing.assert_array_equal(review.mask(0), drawn)
    assert review.decide(0, "accepted") == "corrected"  # it stays known that a person drew it
    assert review.decide(0, "rejected") == "rejected"
    assert review.decide(0, "rejected") == "rejected"
    assert (review.mask(0) == 255).all()
    assert review.decide(0, "accepted") == "corrected"  # as it was before
    np.testing.assert_array_equal(review.mask(0), drawn)
    assert review.decide(0, "open") == "open"
    np.testing.assert_array_equal(review.mask(0), before)
    assert review.decide(0, "rejected") == "rejected"
    assert review.decide(0, "accepted") == "accepted"
    np.testing.assert_array_equal(review.mask(0), before)
    assert review.decide(0, "corrected") == "corrected"  # the drawing is not lost
    np.testing.assert_array_equal(review.mask(0), drawn)
    assert review.decide(0, "open") == "open"
    assert read_json(run / "review" / "decisions.json")[name]["state"] == "open"
    with pytest.raises(tagseg.BadInput, match="3 values for"):
        review.correct(0, b"123")
    with pytest.raises(tagseg.BadInput, match="no class 77"):
        review.correct(0, np.full_like(before, 77, dtype=np.uint8).tobytes())
    with pytest.raises(tagseg.BadInput, match="'good': known are"):
        review.decide(0, "good")
    np.testing.assert_array_equal(review.mask(0), before)


def test_two_at_once(review: Any):
    masks = [np.full_like(review.mask(number), number) for number in range(2)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: review.correct(n % 2, masks[n % 2].tobytes()), range(80)))
    for number in range(2):
        np.testing.assert_array_equal(review.mask(number), masks[number])


def test_what_is_drawn_and_taken_back(review: Any, run: Path, tiny_set: Path, capsys: Any):
    settings = {**TINY}
    review.correct(0, np.ones_like(review.mask(0)).tobytes())
    review.decide(1, "rejected")
    review.close()
    assert tagseg.fit(tiny_set, run, recipe="cam", settings=settings).metrics.train.corrected == 2
    again = reopened(run)
    assert [again.state(s) for s in again.samples[:3]] == ["corrected", "rejected", "open"]
    again.decide(0, "open")
    again.decide(1, "accepted")
    again.close()
    capsys.readouterr()
    result = tagseg.fit(tiny_set, run, recipe="cam", settings=settings)
    assert "masks: 2 corrections by hand were taken back" in capsys.readouterr().out
    assert result.metrics.train.corrected == 0
    assert result.metrics.train.with_corrections is None
    looked = reopened(run)
    for number in range(len(looked.samples)):
        looked.decide(number, "accepted")
    before = [looked.mask(number) for number in range(len(looked.samples))]
    looked.close()
    settings["seed"] = 1  # other masks, which nobody has decided of
    tagseg.fit(tiny_set, run, recipe="cam", settings=settings, quiet=True)
    last = reopened(run)
    same = [np.array_equal(last.mask(number), mask) for number, mask in enumerate(before)]
    assert not all(same)
    assert [last.state(s) for s in last.samples] == ["accepted" if kept else "open" for kept in same]
    last.close()


def reopened(run: Path) -> Any:
    from tagseg.app.review import Review
    from tagseg.progress import Reporter

    return Review(run, Reporter(quiet=True))


def test_a_data_set_that_has_grown(run: Path, tiny_set: Path, tmp_path: Path):
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    (data / "classes.txt").write_text("apple\n" + (data / "classes.txt").read_text().removeprefix("background\n"))
    write_json(run / "run.json", {**read_json(run / "run.json"), "data": str(data)})
    with pytest.raises(tagseg.BadInput, match="the classes are others"):
        tagseg.review(run)


def test_nobody_else_works_on_the_run(review: Any, run: Path, tiny_set: Path):
    with pytest.raises(tagseg.BadInput, match="another tagseg is at work"):
        tagseg.fit(tiny_set, run, recipe="cam", settings=TINY, quiet=True)


def test_what_is_no_finished_run(tmp_path: Path, run: Path):
    with pytest.raises(tagseg.BadInput, match="no folder of a run"):
        tagseg.review(tmp_path)
    shutil.rmtree(run / "segment")
    with pytest.raises(tagseg.BadInput, match="has not come to its network"):
        tagseg.review(run)


def test_only_its_own_page_is_answered(run: Path):
    address = tagseg.review(run, block=False, quiet=True)
    for headers in ({"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{address}list", headers=headers))
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{address}photo/99")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(f"{address}mask/0", data=b"12"))
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(f"{address}state/0", data=b"[]"))
    with pytest.raises(tagseg.BadInput, match="another tagseg is at work"):
        tagseg.review(run, port=int(address.rstrip("/").rpartition(":")[2]))


def test_tags_are_changed_and_learnt(review: Any, run: Path, tiny_set: Path, capsys: Any):
    sample = review.samples[0]
    others = [c + 1 for c in range(len(review.classes)) if c not in sample.tags][:1]
    assert review.retag(0, [*others, *others]) == others
    shown = next(p for p in review.listed()["photographs"] if p["number"] == 0)
    assert (shown["tags"], shown["retagged"]) == (others, True)
    with pytest.raises(tagseg.BadInput, match="no class 77"):
        review.retag(0, [77])
    review.retag(1, [])
    review.retag(1, [tag + 1 for tag in read_dataset(tiny_set).train[1].tags])  # and back
    assert list(read_json(run / "review" / "tags.json")) == [sample.name]
    review.close()
    tagseg.fit(tiny_set, run, recipe="cam", settings=TINY)
    told = capsys.readouterr().out
    assert "note: tags of 1 photographs are as they were changed by hand" in told
    assert set(np.unique(read_index_png(run / "masks" / f"{sample.name}.png"))) <= {0, *others, 255}
    again = reopened(run)
    assert [tag + 1 for tag in again.samples[0].tags] == others
    again.retag(0, [tag + 1 for tag in sample.tags])
    assert again.tags == {}
    again.close()
    (run / "review" / "tags.json").write_text("[1")
    with pytest.raises(tagseg.BadInput, match="the tags that were changed cannot be read"):
        tagseg.fit(tiny_set, run, recipe="cam", settings=TINY, quiet=True)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium; name one in CHROMIUM")
def test_three_masks_are_corrected_by_hand_and_learnt(run: Path, tiny_set: Path):
    sync_api = pytest.importorskip("playwright.sync_api")
    from tagseg.app.review import serve

    opened = reopened(run)
    address = serve(opened, port=None, block=False)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        names = [p["name"] for p in opened.listed()["photographs"]]
        for number, (name, key) in enumerate(zip(names, "bsf", strict=False)):  # brush, superpixel, whole region
            page.wait_for_selector(f"body[data-shown='{name}']")
            before = read_index_png(opened.place(opened.samples[opened.order[number]]))
            page.wait_for_function("pieces !== null")
            page.keyboard.press("u")
            page.keyboard.press(key)
            box = page.locator("#mask").bounding_box()
            page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
            page.mouse.up()
            page.wait_for_function(f"document.getElementById('saved').textContent === '{name} is saved'")
            after = read_index_png(opened.place(opened.samples[opened.order[number]]))
            assert (after == 255).any()
            assert (before != after).any()
            np.testing.assert_array_equal(read_index_png(run / "review" / "before" / f"{name}.png"), before)
            page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"body[data-shown='{names[3]}']")
        page.keyboard.press("a")
        page.wait_for_selector(f"body[data-shown='{names[4]}']")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(f"body[data-shown='{names[3]}']")
        page.keyboard.press("ArrowLeft")  # to the third, which is put back
        page.wait_for_selector(f"body[data-shown='{names[2]}']")
        page.keyboard.press("o")
        page.wait_for_function("document.getElementById('progress').textContent.includes('2 corrected')")
        item = next(p for p in opened.listed()["photographs"] if p["name"] == names[2])
        page.keyboard.press("Shift+Digit1")  # its first tag goes, and comes again by the list
        page.wait_for_function("document.getElementById('saved').textContent.includes('tags are saved')")
        assert [tag + 1 for tag in opened.samples[item["number"]].tags] == item["tags"][1:]
        assert "(changed here)" in page.locator("#why").inner_text()
        page.keyboard.press("t")
        page.locator("#more").select_option(str(item["tags"][0]))
        page.wait_for_function(f"current().tags.length === {len(item['tags'])}")
        assert "(changed here)" not in page.locator("#why").inner_text()
        assert page.locator("#told").inner_text() == ""
        browser.close()
    assert all(url.startswith(address) or url.startswith("blob:") for url in asked)
    assert [opened.decisions[name]["state"] for name in names[:4]] == ["corrected", "corrected", "open", "accepted"]
    assert opened.tags == {}
    opened.close()
    drawn = {name: read_index_png(run / "masks" / f"{name}.png") for name in names[:2]}
    result = tagseg.fit(tiny_set, run, recipe="cam", settings=TINY, quiet=True)
    assert result.metrics.train.corrected == 2
    assert result.metrics.train.with_corrections is not None
    for name, mask in drawn.items():
        np.testing.assert_array_equal(read_index_png(run / "masks" / f"{name}.png"), mask)
