"""Work on photographs in parts leaves what it leaves in one go."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tagseg.data.dataset import MaskFolder
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.files import file_digest
from tagseg.methods.saved import load_saved
from tagseg.networks.settings import CacheSettings, EncoderSettings
from tagseg.pipeline import mining, parts
from tagseg.pipeline.attributing import mine_part
from tagseg.pipeline.featuring import _store_part
from tagseg.pipeline.masking import make_masks
from tagseg.pipeline.measure import _predict_part
from tagseg.pipeline.parts import WHOLE, Part, in_parts
from tagseg.pipeline.settings import MaskSettings, MineSettings
from tagseg.segmentation.encoder import load_encoder
from tagseg.segmentation.settings import PredictSettings


def works(run: Path, data: Path, folder: Path) -> dict[str, Any]:
    samples = read_dataset(data).train
    _, facts = inspect_files(read_dataset(data), FileFacts())
    encoder = EncoderSettings(name="test_vit", weights="random", side=64)
    how = MineSettings(side=65, scales=(1.0,))
    method = load_saved(run / "train")
    return {
        "maps": partial(mine_part, method, how, samples, facts, folder / "maps"),
        "features": partial(
            _store_part, partial(load_encoder, encoder), samples, folder / "features", CacheSettings(mirrored=True)
        ),
        "masks": partial(
            make_masks, MapStore(run / "mine"), samples, 0.3, MaskSettings(refine="none"), folder / "masks"
        ),
        "predictions": partial(_predict_part, run, PredictSettings(), MaskFolder(folder / "predictions"), samples),
    }


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["maps", "features", "masks", "predictions"])
def test_parts_leave_the_same(
    name: str, tiny_run: Any, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mining, "SHARD", 3)
    monkeypatch.setattr(mining, "BATCH", 2)
    monkeypatch.setattr("tagseg.pipeline.featuring.SHARD", 6)
    told: list[int] = []
    advance = lambda done, remark: told.append(done)  # noqa: E731
    works(tiny_run.folder, tiny_set, tmp_path / "one")[name](part=WHOLE, advance=advance)
    assert told == sorted(told)
    assert told[-1] == 10
    right = digests(tmp_path / "one")
    assert len(right) > 1
    work = pickle.loads(pickle.dumps(works(tiny_run.folder, tiny_set, tmp_path / "two")[name]))
    work(part=Part(1, 2), advance=parts._unseen)
    half = digests(tmp_path / "two")
    assert 0 < len(half) < len(right)
    assert half.items() <= right.items()
    work(part=WHOLE, advance=parts._unseen)  # what the other one has not made
    assert digests(tmp_path / "two") == right


def test_processes_that_are_started_for_it(
    tiny_run: Any, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[Part] = []

    def beside(function: Any, items: Any, jobs: int) -> Any:
        for number, item in enumerate(items):
            made.append(item[1])
            yield number, function(pickle.loads(pickle.dumps(item)))

    monkeypatch.setattr(parts, "in_processes", beside)
    monkeypatch.setattr(parts, "ENOUGH", 4)
    work = works(tiny_run.folder, tiny_set, tmp_path)["masks"]
    in_parts(work, 10, 2, tmp_path, parts._unseen)
    assert not made  # one process has all cores already
    monkeypatch.setattr(parts, "_several_gpus", lambda: True)
    in_parts(work, 10, 2, tmp_path, parts._unseen)
    assert made == [Part(0, 2), Part(1, 2)]
