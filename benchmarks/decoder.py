"""What a decoder on frozen features learns from pseudo-masks, on training photographs that it was not shown.

    python benchmarks/decoder.py DATA --run RUN --recipe photos/cam [--rows tags=0 epochs=3,balance=0.5/tags=0.3 ...] \\
        --set backbone=NAME --set weights=FILE --set encoder.name=NAME --set encoder.weights=FILE

`RUN` is one of `tagseg fit` with the same recipe and settings. Two of every three training photographs teach, the
others measure; the evaluation split has no part. A row is LABELS/NETWORK or NETWORK: changes of the settings of
`segment.decoder`, with commas between, and before the stroke what teaches it: `true` masks (*oracle*), or changes of
`masks.decoder`, which then labels all photographs of the run again; else the pseudo-masks of the run. Four numbers:
mIoU of the labels on all training photographs, mIoU without tags, the same when the network is told the tags, and
seconds. `--classes` names classes whose IoU, of the labels and of the network without tags, comes below.
"""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import machine, run_parser

from tagseg.data.dataset import Dataset, MaskFolder, read_mask
from tagseg.data.feature_store import FeatureStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion
from tagseg.grid import PIXELS
from tagseg.networks.settings import DecoderSettings
from tagseg.pipeline.segmenting import label_again, teach_decoder
from tagseg.pipeline.settings import parse_assignments, resolve
from tagseg.progress import Reporter
from tagseg.settings import parse

ROWS = ["tags=0", "tags=0.3", "true/tags=0.3", "epochs=5,balance=0/balance=0", "epochs=3,balance=0.5/balance=0.25"]


def changed(settings: DecoderSettings, changes: str) -> Any:
    words = dict(word.split("=") for word in changes.split(",") if word)
    return parse(DecoderSettings, {**settings.model_dump(), **words}, changes)


def labelled(given: Any, run: Path, changes: str, seed: int, folder: Path) -> MaskFolder:
    """Labels the photographs of a run again, by a decoder that learnt its first masks."""
    chosen = given.settings.masks
    settings = changed(chosen.of(str(chosen.taught)), changes)
    folder.mkdir(parents=True, exist_ok=True)
    head, _ = teach_decoder(given, MaskFolder(run / "masks"), settings, folder, "labels", seed=seed + 3)
    (folder / "last.ckpt").unlink(missing_ok=True)
    label_again(given, head, chosen.part(after=True), folder)
    return MaskFolder(folder)


def one(data: Dataset, run: Path, chosen: Any, row: str, seed: int, folder: Path) -> list[np.ndarray]:
    """IoU of every class, in per cent: of the labels, of the network, and of the network that is told the tags."""
    labels, _, changes = row.rpartition("/")
    settings = changed(chosen.segment.decoder, changes)
    shown = [s for number, s in enumerate(data.train) if number % 3 != 2]
    held = [s for number, s in enumerate(data.train) if number % 3 == 2 and s.mask is not None]
    store = FeatureStore(run / "features")
    whole: Any = SimpleNamespace(
        path=run, training=data.train, data=data, settings=chosen, features=lambda: store, reporter=Reporter(quiet=True)
    )
    given: Any = SimpleNamespace(**{**vars(whole), "training": tuple(shown), "data": replace(data, train=tuple(shown))})
    masks: Any = MaskFolder(run / "relabel")
    if labels:
        masks = (lambda s: s.mask) if labels == "true" else labelled(whole, run, labels, seed, folder / "labels")
    taught = Confusion(len(data.classes))
    for sample in (s for s in data.train if s.mask is not None):
        taught.add(read_mask(masks(sample)), read_mask(sample.mask))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    head, _ = teach_decoder(given, masks, settings, folder, "decoder", seed=seed)
    (folder / "last.ckpt").unlink(missing_ok=True)
    head = head.eval()
    free, told = Confusion(len(data.classes)), Confusion(len(data.classes))
    for sample in held:
        truth = read_mask(sample.mask)  # type: ignore[arg-type]
        with torch.inference_mode():
            scores = head(torch.from_numpy(store.read(sample.name))[None])[0].float().softmax(dim=0).numpy()
        scores = PIXELS.resize(scores, truth.shape)
        free.add(scores.argmax(axis=0).astype(np.uint8), truth)
        known = np.zeros(len(scores), dtype=bool)
        known[[0, *(tag + 1 for tag in sample.tags)]] = True
        told.add((scores * known[:, None, None]).argmax(axis=0).astype(np.uint8), truth)
    return [100 * np.asarray(confusion.scores().iou, dtype=float) for confusion in (taught, free, told)]


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--classes", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("runs/decoder"), help="a folder for what passes")
    parser.set_defaults(recipe="photos/cam")
    arguments = parser.parse_args()
    data, chosen = read_dataset(arguments.data), resolve(arguments.recipe, parse_assignments(arguments.set))
    print("| row | labels | no tags | each | told the tags | seconds |\n|---|---|---|---|---|---|")
    for row in arguments.rows:
        begun = time.perf_counter()
        found = [
            one(data, arguments.run, chosen, row, seed, arguments.out / f"{row.replace('/', ' ')}-{seed}")
            for seed in arguments.seeds
        ]
        means = np.nanmean(found, axis=2)
        taught, free, told = means.mean(axis=0)
        each = ", ".join(f"{f:.1f}" for _, f, _ in means)
        seconds = (time.perf_counter() - begun) / len(arguments.seeds)
        print(f"| {row} | {taught:.1f} | {free:.1f} | {each} | {told:.1f} | {seconds:.0f} |", flush=True)
        for name in arguments.classes:
            of_class = np.mean(found, axis=0)[:, ("background", *data.classes).index(name)]
            print(f"| {name} | {of_class[0]:.1f} | {of_class[1]:.1f} | | {of_class[2]:.1f} | |", flush=True)
    print(machine())


if __name__ == "__main__":
    main()
