"""A small one of every method, for the tests over all of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tagseg.data.dataset import MaskFolder, Sample, read_mask
from tagseg.data.images import write_mask
from tagseg.data.reading import read_dataset
from tagseg.labels import IGNORE
from tagseg.masks.refinements import LearntRefinement, refinements
from tagseg.methods.base import Method
from tagseg.methods.frozen import Frozen
from tagseg.methods.mctformer import MCTformerV1
from tagseg.methods.refinements import load_network
from tagseg.methods.refinements.base import AffinityNetwork
from tagseg.methods.single_stage import SingleStage
from tagseg.methods.table import load_method
from tagseg.networks.backbone import Backbone
from tagseg.pipeline import training
from tagseg.pipeline.segmenting import teach
from tagseg.pipeline.training import Place, Schedule, Sharing, train
from tagseg.progress import Reporter
from tagseg.segmentation.deeplab import DeepLab, DeepLabPair
from tagseg.segmentation.settings import SegmentSettings

SHARED = 3  # photographs or pairs in a batch of several processes, which two of them cannot share evenly
SEGMENTERS: dict[str, dict[str, Any]] = {  # ways of learning from masks that are partly doubted
    "deeplab": {},
    "clipped": {"clip_from": 100.0, "clip_side": 8},
    "beco": {"network": "beco", "beco": {"warmup": 0.0, "sure": 0.3}},
}
SMALL: dict[str, Any] = {  # of these every method takes what it knows
    "epochs": 2,
    "batch_size": 2,
    "side": 49,
    "output_stride": 16,
    "warmup": 0.5,
    "accumulate_from": 0,
    "crop_share": 0.5,
    "classes_first": 0.0,
    "map_scales": (1.0,),
    "views": 2,
    "drop_path": 0.0,  # which blocks are left out is drawn in every process anew
}


def some(data: Path, count: int = 4) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Photographs, the last of which has no tags, with saliency maps for those who learn from them; and the classes."""
    found = read_dataset(data)
    samples = tuple(replace(s, saliency=s.image) for s in found.train[:count])
    return (*samples[:-1], replace(samples[-1], tags=())), found.classes


def built(name: str, classes: tuple[str, ...], steps: int = 4, **changes: Any) -> Method:
    """The method, with a network of half a million weights."""
    kind: Any = load_method(name)
    transformer = issubclass(kind, SingleStage | Frozen | MCTformerV1)
    small = {**SMALL, **({"side": 64} if transformer else {}), **changes}
    settings = kind.Settings(**{k: v for k, v in small.items() if k in kind.Settings.model_fields})
    torch.manual_seed(0)
    return kind("test_vit" if transformer else "test_resnet", "random", classes, settings, steps)


def exact() -> None:
    """Makes what is learnt comparable: in float32, and with batch normalisations as they are, as pretrained ones stay,
    for those of a CPU see their own process's part of a batch."""
    Backbone.keep_pretrained = lambda self, stride, norms: self.freeze(0, "frozen")  # type: ignore[method-assign]
    training.trainer_precision = lambda _: "32-true"  # type: ignore[attr-defined]


def affinity_taught(
    name: str, data: Path, folder: Path, sharing: Sharing = Sharing(), epochs: int = 2
) -> AffinityNetwork:
    """A refinement's network after two epochs, or none, with the true masks as labels."""
    found = refinements()[name]
    assert isinstance(found, LearntRefinement)
    kind, samples = load_network(found), read_dataset(data).train[:4]
    small = {"epochs": 2, "batch_size": SHARED, "side": 64, "radius": 3}
    settings = kind.Settings(**{k: v for k, v in small.items() if k in kind.Settings.model_fields})
    torch.manual_seed(0)
    network = kind("test_resnet", "random", settings, 4)
    views = network.label_views(samples, 0, MaskFolder(data / "masks"))
    if epochs:
        train(network, views, Schedule(epochs, SHARED, seed=0), Place(folder, name, Reporter(quiet=True), sharing))
    return network


def segmenter_taught(name: str, data: Path, folder: Path, sharing: Sharing = Sharing(), epochs: int = 2) -> Any:
    """A segmentation network after two epochs, or none, with the true masks, of which a part is doubted."""
    found = read_dataset(data)
    masks = MaskFolder(folder / "masks")
    samples = found.train[:5]  # not a whole number of batches
    for sample in samples:
        assert sample.mask is not None
        mask = read_mask(sample.mask)
        mask[:, : mask.shape[1] // 4] = IGNORE
        write_mask(masks(sample), mask)
    small = {"epochs": max(1, epochs), "side": 65}
    settings = SegmentSettings.model_validate({**small, **SEGMENTERS[name]})
    settings = settings.model_copy(update={"batch_size": SHARED * settings.networks})
    torch.manual_seed(0)
    if not epochs:
        backbones = [_segmenting_backbone() for _ in range(settings.networks)]
        single = [DeepLab(one, settings.head, len(found.classes)) for one in backbones]
        return single[0] if len(single) == 1 else DeepLabPair(*single)
    model, _ = teach(
        _segmenting_backbone,
        samples,
        masks,
        found.classes,
        settings,
        Place(folder, name, Reporter(quiet=True), sharing),
        seed=0,
        views_seed=1,
    )
    return model.network


def _segmenting_backbone() -> Backbone:
    backbone = Backbone("test_resnet", "random", 16)
    backbone.freeze(0, "frozen")
    return backbone


def taught(
    name: str,
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    folder: Path,
    sharing: Sharing = Sharing(),
    **changes: Any,
) -> Method:
    """The method after two epochs, or as many as were left to do in `folder`."""
    schedule = Schedule(SMALL["epochs"], changes.get("batch_size", SMALL["batch_size"]), seed=0)
    network = built(name, classes, schedule.steps(len(samples)), **changes)
    if network.accumulates:
        network.accumulated = network.accumulator(folder / "accumulated", samples, [(64, 64)] * len(samples))
    views = network.training_views(samples, seed=0)
    train(network, views, schedule, Place(folder, name, Reporter(quiet=True), sharing), rests=network.rests)
    return network
