"""A method from a file outside of the package: the example of docs/adding-a-method.md, word for word."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tagseg
from tagseg.data.map_store import MapStore
from tagseg.errors import BadInput
from tagseg.methods import table
from tests.conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
SMALL = {**TINY, "backbone": "test_vit", "train.side": 64, "mine.side": 64, "segment.side": 64, "segment.epochs": 1}
SMALL["segment.output_stride"] = None


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the example, which nobody has read yet."""
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert code.count("\n") <= 60
    path = tmp_path / "class_tokens.py"
    path.write_text(code, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "class_tokens", raising=False)
    yield path
    sys.modules.pop("class_tokens", None)


def test_the_example_runs_to_its_report_and_is_explained(example: Path, tiny_set: Path, tmp_path: Path):
    run = tmp_path / "run"
    result = tagseg.fit(tiny_set, run, recipe=str(example), settings=SMALL, quiet=True)
    assert result.report is not None
    store = MapStore(run / "mine")
    assert any(store.read(name).maps.any() for name in store)
    described = json.loads((run / "train" / "classifier.json").read_text())
    assert (described["method"], described["file"]) == ("class_tokens", "class_tokens.py")
    photo = next((tiny_set / "images").glob("*.png"))
    written = tagseg.explain([photo], run, tmp_path / "maps", methods=["own"], top=1, quiet=True)
    assert all(path.is_file() for path in written)


REWRITTEN = """
import os, pathlib, sys
import tagseg, tagseg.pipeline.fit, lightning.pytorch  # once; every fit is a process that knows them already
data, run, method, settings = sys.argv[1:]
for again in range(3):
    if again == 2:
        text = pathlib.Path(method).read_text()
        pathlib.Path(method).write_text(text.replace("token_weight: float = 1.0", "token_weight: float = 0.5"))
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        tagseg.fit(data, run, recipe=method, settings=eval(settings), until="train")
        print("--", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
"""


def test_a_file_that_was_rewritten_is_trained_again(example: Path, tiny_set: Path, tmp_path: Path):
    """By other processes, as it would be."""
    words = [str(tiny_set), str(tmp_path / "run"), str(example), repr(SMALL)]
    done = subprocess.run([sys.executable, "-c", REWRITTEN, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split("--\n")[:3]
    assert "train: already done, kept" not in first
    assert "train: already done, kept" in second
    assert "train: done again, because" in third


def test_a_file_that_was_rewritten_is_read_again(example: Path):
    tagseg.use_method(example)
    before = table.method_digest("class_tokens")
    example.write_text(example.read_text().replace("token_weight: float = 1.0", "token_weight: float = 0.25"))
    tagseg.use_method(example)
    assert table.method_digest("class_tokens") != before
    assert table.method_settings("class_tokens")().token_weight == 0.25


def test_a_run_of_a_method_that_nobody_named_is_refused(example: Path, tiny_set: Path, tmp_path: Path):
    """The file is a program: it is run only for whoever names it."""
    tagseg.fit(tiny_set, tmp_path / "run", recipe=str(example), settings=SMALL, until="train", quiet=True)
    table._own.clear()
    photo = next((tiny_set / "images").glob("*.png"))
    with pytest.raises(BadInput, match=r"defined in a file class_tokens\.py; name that file before the command"):
        tagseg.explain([photo], tmp_path / "run", tmp_path / "maps", quiet=True)
    assert tagseg.use_method(example) == "class_tokens"
    assert tagseg.explain([photo], tmp_path / "run", tmp_path / "maps", methods=["own"], top=1, quiet=True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cam.py", "METHOD = 1", "tagseg has a method 'cam' already"),
        ("json.py", "METHOD = 1", "Python has another module 'json'"),
        ("my-method.py", "METHOD = 1", "use letters, numbers and _ only"),
        ("nothing_here.py", "x = 1", "no line METHOD = "),
        ("broken_here.py", "import nowhere_at_all", "running this file failed .*nowhere_at_all"),
        (None, "", "there is no such file"),
    ],
)
def test_files_that_are_no_methods_are_told(tmp_path: Path, name: str | None, text: str, words: str):
    path = tmp_path / (name or "missing.py")
    if name is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=words):
        tagseg.use_method(path)


def test_its_settings_are_checked_like_any(example: Path, tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match=r"no setting 'train\.token_wieght'; did you mean 'token_weight'"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe=str(example), settings={**SMALL, "train.token_wieght": 2})
    assert not (tmp_path / "run").exists()
