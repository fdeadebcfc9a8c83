"""Masks to a trained segmentation network, and a network's masks of the tags that were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tagseg.data.coupled_views import CoupledViews
from tagseg.data.dataset import MaskFolder, Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.feature_views import FeatureViews
from tagseg.data.images import read_image, write_mask
from tagseg.data.loading import TrainingViews
from tagseg.data.views import ViewSpec
from tagseg.files import read_json, write_json
from tagseg.grid import PIXELS
from tagseg.masks.background import label_mask
from tagseg.masks.refinements.learnt import LearntSettings
from tagseg.methods.base import Method
from tagseg.networks.backbone import Backbone
from tagseg.networks.features import Levels
from tagseg.networks.precision import default_device
from tagseg.networks.settings import DecoderSettings
from tagseg.networks.weights import SEGMENTER, take_over
from tagseg.pipeline.masking import make_missing, refine_scores
from tagseg.pipeline.parts import Part, in_parts
from tagseg.pipeline.records import EpochRecord
from tagseg.pipeline.run import Run
from tagseg.pipeline.settings import FitSettings, MaskSettings
from tagseg.pipeline.training import Place, Schedule, save_network, train
from tagseg.progress import Advance
from tagseg.segmentation.co_training import CoTraining
from tagseg.segmentation.decoder import Decoder, DecoderTraining, FrozenSegmenter
from tagseg.segmentation.deeplab import DeepLab, DeepLabPair
from tagseg.segmentation.encoder import load_encoder, side_by_side
from tagseg.segmentation.model import SegmentationModel, load
from tagseg.segmentation.settings import SegmentSettings
from tagseg.segmentation.training import SegmentationTraining

PREDICTION_MARGIN = 1.25  # photographs are segmented at this times the training window, whose mean scale it is


def backbone_of(own: SegmentSettings | LearntSettings, settings: FitSettings) -> tuple[str, str]:
    """Returns the name and the weights of the backbone of a network that comes after the classifier's."""
    name = own.backbone or settings.backbone
    return name, own.weights or (settings.weights if name == settings.backbone else "pretrained")


def own_model(method: Method, classes: tuple[str, ...]) -> SegmentationModel:
    """Returns the network that a method which `segments` has trained beside its classifier, to take home."""
    if isinstance(method.decoder, Decoder) and isinstance(method.backbone, Levels):
        levels = Levels(method.backbone.name)  # without the values, which the decoder does not see
        levels.load_state_dict(method.backbone.state_dict())
        network = FrozenSegmenter(levels, len(classes), method.decoder.width, method.decoder.layers)
        network.head.load_state_dict(method.decoder.state_dict())
        return SegmentationModel(network, classes, method.side)
    backbone = Backbone(method.backbone.name, "random", method.backbone.output_stride)
    backbone.load_state_dict(method.backbone.state_dict())
    backbone.mean, backbone.std = method.backbone.mean, method.backbone.std
    deeplab = DeepLab(backbone, method.decoder_name, len(classes))
    deeplab.head.load_state_dict(method.decoder.state_dict())
    return SegmentationModel(deeplab, classes, round(method.side * PREDICTION_MARGIN))


def teach(
    backbone: Callable[[], Backbone],
    samples: tuple[Sample, ...],
    masks: Callable[[Sample], Path],
    classes: tuple[str, ...],
    settings: SegmentSettings,
    place: Place,
    *,
    seed: int,
    views_seed: int,
    start: Path | None = None,
) -> tuple[SegmentationModel, list[EpochRecord]]:
    """Puts DeepLab's head on a backbone and trains both with the mask of every sample.

    Args:
        backbone: makes it, with its weights loaded and its frozen parts frozen; it is asked for every network that the
            settings have.
        masks: where the mask of a sample lies.
        seed, views_seed: of the order of the photographs, and of their windows.
        place: where and how they are trained.
        start: see `teach_decoder`.

    Returns:
        the model, and the record of its epochs.
    """
    backbones = [backbone() for _ in range(settings.networks)]
    single = [DeepLab(one, settings.head, len(classes)) for one in backbones]
    network: DeepLab | DeepLabPair = single[0] if len(single) == 1 else DeepLabPair(*single)
    if start is not None:
        start_heads(network.heads, start, classes)
    side, _ = network.backbone.grid.fit(settings.side, settings.side)
    spec = ViewSpec(side=side, scales=settings.scales, seed=views_seed, masks=masks)
    module: SegmentationTraining | CoTraining
    if isinstance(network, DeepLabPair):
        views: TrainingViews = CoupledViews(samples, len(classes), network.backbone, spec)
        pairs = settings.batch_size // settings.networks
        schedule = Schedule(settings.epochs, pairs, seed, together=settings.networks)
        module = CoTraining(network, settings, schedule.steps(len(views)))
    else:
        views = TrainingViews(samples, len(classes), network.backbone, spec)
        schedule = Schedule(settings.epochs, settings.batch_size, seed)
        module = SegmentationTraining(network, settings, schedule.steps(len(views)))
    epochs = train(module, views, schedule, place)
    return SegmentationModel(network, classes, round(side * PREDICTION_MARGIN)), epochs


def teach_decoder(
    run: Run,
    masks: MaskFolder,
    settings: DecoderSettings,
    folder: Path,
    name: str,
    *,
    seed: int,
    keep: str | None = None,
    start: Path | None = None,
) -> tuple[Decoder, list[EpochRecord]]:
    """Trains a decoder on the stored features of the frozen encoder with the mask of every training photograph.

    Args:
        run: with features.
        masks: where the mask of a sample lies.
        settings: of the decoder and its training.
        folder, name: see `tagseg.pipeline.training.Place`.
        seed: of everything random.
        keep: the file in the folder that keeps the trained decoder, to go on with it; None: nothing does.
        start: the folder of an earlier run whose decoder it starts from, as far as it is of the same kind.

    Returns:
        the decoder, and the record of its epochs.
    """
    samples, classes = run.training, run.data.classes
    encoder = load_encoder(run.settings.encoder)
    torch.manual_seed(seed)
    head = Decoder(encoder.network.channels, len(classes) + 1, settings.width, settings.layers)
    if keep and (folder / keep).exists() and (folder / "epochs.json").exists():
        head.load_state_dict(load_file(folder / keep))
        return head, [EpochRecord(**epoch) for epoch in read_json(folder / "epochs.json")]
    if start is not None:
        start_heads([head], start, classes)
    cells = max(encoder.grid.cells(*encoder.size(1, 1)))
    views = FeatureViews(samples, len(classes), run.features(), cells, seed, masks)
    schedule = Schedule(settings.epochs, settings.batch_size, seed)
    module = DecoderTraining(head, settings, schedule.steps(len(samples)))
    epochs = train(module, views, schedule, Place(folder, name, run.reporter, log=run.settings.log))
    if keep:
        write_json(folder / "epochs.json", [epoch.present() for epoch in epochs])
        save_network(head, folder / keep)
    return head, epochs


def start_heads(heads: Sequence[torch.nn.Module], run: Path, classes: tuple[str, ...]) -> None:
    """Gives new segmentation heads what those of an earlier run have learnt; what is of another kind gives nothing.

    Of two heads the second stays as it is where the earlier run has one: two that are alike teach each other nothing.
    """
    if not (run / SEGMENTER).is_file():
        return
    earlier = load(run)
    earlier.to("cpu")
    for head, known in zip(heads, earlier.network.heads):  # noqa: B905
        if type(known) is type(head):
            take_over(head, known.state_dict(), ["", *earlier.classes], ["", *classes])  # "" is the background


def with_encoder(run: Run, head: Decoder, settings: DecoderSettings) -> SegmentationModel:
    """Returns the network that people take home: the frozen encoder with a decoder on it."""
    encoder = load_encoder(run.settings.encoder)
    network = FrozenSegmenter(encoder.network, len(run.data.classes), settings.width, settings.layers)
    network.head.load_state_dict(head.state_dict())
    return SegmentationModel(network, run.data.classes, run.settings.encoder.side)


def label_again(run: Run, head: Decoder, settings: MaskSettings, folder: Path) -> None:
    """Writes what a decoder sees of the given tags in every training photograph that has no mask in `folder` yet.

    Args:
        run: with features.
        head: the trained decoder.
        settings: how its probabilities are refined.
        folder: for the masks.
    """
    samples = run.training
    work = partial(_label_part, head.cpu(), run.path / "features", settings, MaskFolder(folder), samples)
    with run.reporter.bar("label again", len(samples), "photographs") as advance:
        in_parts(work, len(samples), run.settings.processes, folder, advance)


def _label_part(
    head: Decoder,
    features: Path,
    settings: MaskSettings,
    place: MaskFolder,
    samples: tuple[Sample, ...],
    *,
    part: Part,
    advance: Advance,
) -> None:
    store, head = FeatureStore(features), head.eval().to(default_device())
    device = next(head.parameters()).device

    def work(sample: Sample) -> None:
        photo = read_image(sample.image)
        mask = np.zeros(photo.shape[:2], dtype=np.uint8)
        if sample.tags:
            present = [0, *(tag + 1 for tag in sample.tags)]
            seen = torch.from_numpy(store.read(sample.name))[None].to(device)
            with torch.inference_mode():
                scores = head(seen)[0, present].float().softmax(dim=0).cpu().numpy()
            scores = PIXELS.resize(scores, photo.shape[:2])
            mask = label_mask(refine_scores(photo, scores, settings, sample.name), sample.tags)
        write_mask(place(sample), mask)

    make_missing(place, samples, partial(side_by_side, work), part, advance)
