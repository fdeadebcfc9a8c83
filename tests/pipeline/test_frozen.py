"""Frozen networks in a run: features computed once, maps spread along them, decoders taught by them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tagseg
from tagseg.data.dataset import Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.feature_views import FeatureViews
from tagseg.data.images import read_index_png
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.files import read_json
from tagseg.grid import Grid
from tagseg.masks.refinements.proxy import refine as refine_proxy
from tagseg.masks.rescaling import on_cells
from tagseg.methods.saved import load_saved
from tagseg.networks.settings import EncoderSettings
from tagseg.segmentation.encoder import Encoder, LiveFeatures, deepest, load_encoder, side_by_side
from tests.conftest import TINY
from tests.methods.any_method import built
from tests.networks.test_texts import texts_file

ENCODER = {"encoder.name": "test_vit", "encoder.weights": "random", "encoder.side": 64}
FROZEN: dict[str, Any] = {
    **TINY,
    **ENCODER,
    "train.frozen": True,
    "masks.refine": "proxy+par+decoder+par",
    "masks.decoder.epochs": 1,
    "masks.decoder.width": 16,
    "segment.network": "decoder",
    "segment.decoder.epochs": 2,
    "segment.decoder.width": 16,
}


@pytest.fixture(scope="module")
def frozen_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tagseg.fit:  # type: ignore[valid-type]
    return tagseg.fit(tiny_set, tmp_path_factory.mktemp("frozen") / "run", recipe="cam", settings=FROZEN, quiet=True)


def test_everything_is_there(frozen_run: Any, tiny_set: Path):
    folder, data = frozen_run.folder, read_dataset(tiny_set)
    for stage in ("features", "frozen", "train", "mine", "affinity", "masks", "relabel", "segment", "report"):
        assert read_json(folder / stage / "stage.json")["finished"], stage
    assert set(FeatureStore(folder / "features")) == {s.name for s in data.train}
    for sample in data.train:
        first, again = (read_index_png(folder / part / f"{sample.name}.png") for part in ("masks", "relabel"))
        assert first.shape == again.shape
        assert set(np.unique(again)) <= {0, *(tag + 1 for tag in sample.tags)}
    assert frozen_run.metrics.val.segmentation.miou is not None


def test_maps_are_spread_along_the_stored_features(frozen_run: Any, tiny_set: Path):
    folder = frozen_run.folder
    sample = next(s for s in read_dataset(tiny_set).train if s.tags)
    before, after = (
        MapStore(folder / "mine").read(sample.name),
        MapStore(folder / "affinity" / "maps").read(sample.name),
    )
    features = deepest(FeatureStore(folder / "features").read(sample.name))
    height, width = features.shape[1:]
    expected = refine_proxy(features, on_cells(before.at((4 * height, 4 * width)), (height, width)))
    np.testing.assert_allclose(after.maps, expected, atol=1 / 400)


def test_the_model_is_whole_and_says_the_same_again(frozen_run: Any, tiny_set: Path):
    model = tagseg.load(frozen_run.folder)
    sample = read_dataset(tiny_set).val[0]
    found = model.predict(sample.image, scales=(0.75, 1.0), flip=True)
    assert found.shape == read_index_png(frozen_run.folder / "report" / "predictions" / f"{sample.name}.png").shape
    np.testing.assert_array_equal(
        model.predict(sample.image), read_index_png(frozen_run.folder / "report" / "predictions" / f"{sample.name}.png")
    )


def test_what_is_missing_is_made_again_and_nothing_else(
    frozen_run: Any, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(frozen_run.folder, run)
    before = {f.name: f.read_bytes() for f in (run / "relabel").glob("*.png")}
    (run / "features" / "000000.safetensors").unlink()
    next((run / "relabel").glob("*.png")).unlink()
    tagseg.fit(tiny_set, run, recipe="cam", settings=FROZEN)
    said = capsys.readouterr()
    text = said.out + said.err
    assert "features: made again" in text
    assert "affinity: already done" in text
    assert "segment: already done" in text
    assert {f.name: f.read_bytes() for f in (run / "relabel").glob("*.png")} == before


def test_features_computed_once_teach_what_live_ones_teach(tiny_set: Path, tmp_path: Path):
    """Eight bits of them, either way."""
    samples = read_dataset(tiny_set).train[:4]
    alone = {"erasing": "none", "alignment": "none", "warmup": 0.0, "teacher_decay": 0.0}
    for name, own in {"cam": {}, "acol": {}, "frozen": {}, "ktse": alone}.items():
        network = built(name, ("a", "b", "c", "d", "e", "f"), frozen=True, **own).eval()
        encoder = Encoder(network.backbone, network.settings.side)
        store = FeatureStore(tmp_path / name)
        store.write(dict(side_by_side(lambda s, e=encoder: (s.name, e(_read(s))), samples)))
        live = LiveFeatures(encoder, samples)
        for sample in samples:
            stored, now = store.read(sample.name), live.read(sample.name)
            np.testing.assert_allclose(stored, now, atol=2e-2 * float(np.abs(now).max()))
        losses = []
        for source in (store, live):
            torch.manual_seed(0)
            views = network.feature_views(samples, 0, source)
            items = [views[0, i] for i in range(4)]
            batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
            network.log = lambda *_: None  # type: ignore[method-assign]
            losses.append(float(network.training_step(batch, 0)))
        assert losses[0] == pytest.approx(losses[1], rel=2e-2)


@pytest.mark.parametrize("name", ["ktse", "eps"])
def test_labels_and_saliency_are_learnt_on_features(tiny_set: Path, tmp_path: Path, name: str):
    own = {"train.frozen": True, "train.epochs": 4, "cache.mirrored": True}
    if name == "ktse":
        own |= {"train.erasing": "none", "train.alignment": "none", "train.warmup": 0.5}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe=name, settings={**TINY, **own}, until="premise", quiet=True)
    terms = read_json(run.folder / "train" / "stage.json")["values"]["epochs"][-1]["terms"]
    assert {"ktse": "regularisation", "eps": "saliency"}[name] in terms


@pytest.mark.parametrize("corners", [False, True])
def test_saliency_and_pixels_lie_where_the_cells_lie(tmp_path: Path, corners: bool):
    """A bright square around the centre of one cell is bright in that cell, whichever way cells lie."""
    stride, cells, here = 16, (5, 7), (2, 5)
    height, width = ((n - 1) * stride + 1 if corners else n * stride for n in cells)
    y, x = (n * stride + (0 if corners else stride // 2) for n in here)
    photo = np.zeros((height, width, 3), dtype=np.uint8)
    photo[y - 6 : y + 6, x - 6 : x + 6] = 255
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(photo[..., 0]).save(tmp_path / "s.png")
    sample = Sample(name="a", image=tmp_path / "a.png", tags=(0,), saliency=tmp_path / "s.png")
    store = FeatureStore(tmp_path / "store")
    store.write({"a": np.ones((3, *cells), dtype=np.float32)})
    views = FeatureViews((sample,), 1, store, 8, 0, fine=4, pixels=True, saliency=True, grid=Grid(stride, corners))
    item = views[0, 0]
    y0, y1, x0, x1 = item["inside"].tolist()
    found = item["saliency"][y0:y1, x0:x1]
    assert divmod(int(found.argmax()), cells[1]) == here
    assert found.max() > 0.4
    assert found.sum() - found.max() < 0.15
    y0, y1, x0, x1 = item["box"].tolist()
    pixels = item["pixels"][0, y0:y1, x0:x1].reshape(cells[0], 4, cells[1], 4).mean(dim=(1, 3)) / 255
    torch.testing.assert_close(pixels, found, atol=0.02, rtol=0)


def _read(sample: Any) -> np.ndarray:
    from tagseg.data.images import read_image

    return read_image(sample.image)


def test_what_learns_from_more_than_features_is_refused(tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="more than features"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="aeft", settings={**TINY, "train.frozen": True}, quiet=True)
    for part in ("erasing", "alignment"):
        own = {**TINY, "train.frozen": True, "train.erasing": "none", "train.alignment": "none"}
        del own[f"train.{part}"]
        with pytest.raises(BadInput, match=f"train.{part}.*computed once.*set it to none"):
            tagseg.fit(tiny_set, tmp_path / "run", recipe="ktse", settings=own, quiet=True)
    own = {**TINY, "train.frozen": True, "train.erasing": "none", "train.alignment": "none", "train.dropout": 0.2}
    with pytest.raises(BadInput, match=r"train.dropout.*drops nothing"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="ktse", settings=own, quiet=True)
    settings = {**TINY, "masks.refine": "proxy", "encoder.name": "test_resnet", "encoder.weights": "random"}
    with pytest.raises(BadInput, match="no plain vision transformer"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, quiet=True)


def test_anybodys_masks_predictions_and_maps_are_spread(frozen_run: Any, tiny_set: Path, tmp_path: Path):
    encoder = EncoderSettings(name="test_vit", weights="random", side=64)
    images, masks = tiny_set / "images", tiny_set / "masks"
    found = tagseg.refine(images, masks, tmp_path / "sharp", refine="proxy+par", encoder=encoder, quiet=True)
    assert len(found.masks) == 14
    photo = read_dataset(tiny_set).val[0].image
    run = frozen_run.folder
    (written,) = tagseg.predict(run, [photo], tmp_path / "new", refine="proxy+par", encoder=encoder, quiet=True)
    assert read_index_png(written).max() <= 6
    shown = tagseg.explain([photo], run, tmp_path / "shown", methods=["cam"], encoder=encoder, quiet=True)
    plain = tagseg.explain([photo], run, tmp_path / "plain", methods=["cam"], quiet=True)
    assert [p.name for p in shown] == [p.name for p in plain]
    assert shown[0].read_bytes() != plain[0].read_bytes()
    with pytest.raises(BadInput, match="learns from all photographs"):
        tagseg.predict(run, [photo], tmp_path / "no", refine="proxy+decoder", quiet=True)


def test_the_one_stage_method_is_what_people_take_home(tiny_set: Path, tmp_path: Path):
    settings = {
        "backbone": "test_vit",
        "weights": "random",
        "train.epochs": 3,
        "train.batch_size": 4,
        "train.side": 64,
        "train.width": 32,
        "train.layers": 1,
        "mine.side": 64,
        "mine.scales": [1.0],
    }
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="frozen", settings=settings, quiet=True)
    assert read_json(tmp_path / "run" / "segment" / "model.json")["architecture"]["layers"] == 1
    assert result.metrics.val.segmentation is not None
    photo = read_dataset(tiny_set).val[0].image
    own = tagseg.explain([photo], tmp_path / "run", tmp_path / "shown", methods=["own"], layers="last", quiet=True)
    assert own


def test_random_encoders_are_the_same_every_time():
    settings = EncoderSettings(name="test_vit", weights="random", side=64)
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    first = load_encoder(settings)(photo)
    load_encoder.cache_clear()
    torch.manual_seed(5)
    np.testing.assert_array_equal(load_encoder(settings)(photo), first)
    assert load_encoder(settings).size(50, 70) == (48, 64)


def test_maps_from_texts(tiny_set: Path, tmp_path: Path):
    """One stage on a tower of CLIP's shape; what it learnt stays usable without the file."""
    data = read_dataset(tiny_set)
    texts = texts_file(tmp_path / "texts.safetensors", ["other", *reversed(data.classes)], ["sky", "grass"], size=8)
    settings = {
        "backbone": "test_vit",
        "weights": "random",
        "data.texts": str(texts),
        "train.epochs": 2,
        "cache.mirrored": True,
        "cache.parts": 1,
        "train.batch_size": 4,
        "train.side": 64,
        "train.width": 16,
        "mine.side": 64,
        "mine.scales": (1.0,),
    }
    with pytest.raises(BadInput, match="'cam' uses no texts"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings={"data.texts": str(texts)}, quiet=True)
    with pytest.raises(BadInput, match=r"train\.maps=texts: there are no texts"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="frozen", settings={"train.maps": "texts"}, quiet=True)
    found = tagseg.fit(tiny_set, tmp_path / "run", recipe="frozen", settings=settings, quiet=True)
    assert len(FeatureStore(found.folder / "frozen")) == 3 * len(data.train)
    sample = data.val[0]
    before = tagseg.load(found.folder).predict(sample.image)
    texts.unlink()
    network = load_saved(found.folder / "train")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, logits = network.maps_and_logits(network.score_maps(images))
    assert maps.shape[1] == logits.shape[1] == len(data.classes)
    assert 0 <= maps.min() <= maps.max() <= 1
    np.testing.assert_array_equal(tagseg.load(found.folder).predict(sample.image), before)
