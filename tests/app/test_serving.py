"""What docs/serving.md shows is served as it says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tagseg
from tagseg.data.images import read_image

gradio = pytest.importorskip("gradio")
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_page_that_the_docs_show(tiny_run: Any, tiny_set: Path, monkeypatch: pytest.MonkeyPatch):
    server, client = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    photo = next(iter((tiny_set / "images").iterdir()))
    launch = gradio.Interface.launch
    found: list[str] = []

    def beside(page: Any) -> None:
        found.append(launch(page, prevent_thread_lock=True, quiet=True)[1])

    monkeypatch.setattr(gradio.Interface, "launch", beside)
    names: dict[str, Any] = {}
    exec(server.replace('"run"', repr(str(tiny_run.folder))), names)
    try:
        exec(client.replace('"http://127.0.0.1:7860"', repr(found[0])).replace('"new.jpg"', repr(str(photo))), names)
    finally:
        names["page"].close()
    right = tagseg.load(tiny_run.folder).predict(read_image(photo))
    np.testing.assert_array_equal(names["mask"], right)
    assert names["mask"].dtype == np.uint8
