from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tagseg.data.synthetic import make_synthetic
from tagseg.methods import table

# A network of half a million weights and windows of 49 pixels: the whole job within seconds.
TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "weights": "random",
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.side": 49,
    "mine.side": 65,
    "mine.scales": [1.0],
    "segment.epochs": 2,
    "segment.batch_size": 4,
    "segment.side": 49,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="Also run what takes long: every published recipe, small.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes long; run with --long"))


def names(count: int) -> tuple[str, ...]:
    """So many class names."""
    return tuple(f"class {number}" for number in range(count))


@contextmanager
def interrupted_in(kind: Any, epoch: int) -> Iterator[None]:
    """Within it, the keyboard stops every training of a method in an epoch, counted from 0."""
    step = kind.training_step

    def stopped(module: Any, batch: Any, index: int) -> Any:
        if module.current_epoch == epoch:
            raise KeyboardInterrupt
        return step(module, batch, index)

    kind.training_step = stopped
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        kind.training_step = step


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _methods_of_files_are_forgotten() -> Iterator[None]:
    """Those that a test uses are no other test's."""
    yield
    table._own.clear()


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training and four evaluation photographs with masks."""
    return make_synthetic(tmp_path_factory.mktemp("data") / "tiny", train=10, val=4, sides=(40, 61))


@pytest.fixture(scope="session")
def tiny_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a fit on `tiny_set`; tests must not write into it."""
    import tagseg

    return tagseg.fit(tiny_set, tmp_path_factory.mktemp("run") / "run", recipe="cam", settings=TINY, quiet=True)
