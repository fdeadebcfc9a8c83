"""The default recipe on a data set: pseudo-masks, the segmentation network, and the ceiling of the same network.

    python benchmarks/frozen.py DATA --out FOLDER --set backbone=NAME --set weights=FILE \\
        --set encoder.name=NAME --set encoder.weights=FILE

For every seed a run of `tagseg fit` (the seconds of its stages; the features do not depend on the seed, and are
copied from the first one's with what they took), its evaluation photographs at one scale without tags and by the
recipe's test protocol, and a decoder of the same settings that true masks taught (*oracle*), at one scale and by that
protocol. Everything resumes. `--plain` leaves the last out. `--picture FILE` draws evaluation
photographs of the first seed instead: those at even steps through the photographs ordered by the IoU of what is in
them, worst to best.
"""

import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import machine, mean_spread_each, seeds_parser

import tagseg
from tagseg.data.dataset import Dataset, read_mask
from tagseg.data.feature_store import FeatureStore
from tagseg.data.images import read_image, read_index_png, voc_palette, write_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion, iou_of_tags
from tagseg.files import read_json, write_json
from tagseg.pipeline.segmenting import teach_decoder, with_encoder
from tagseg.pipeline.settings import parse_assignments, resolve
from tagseg.progress import Reporter
from tagseg.report.pictures import overlay_map, overlay_mask
from tagseg.report.sheets import contact_sheet, write_picture
from tagseg.segmentation.settings import PredictSettings

COLUMNS = ("maps", "first", "pseudo", "segmentation", "tested", "ceiling", "ceiling_tested", "seconds", "cache_mb")


def miou(data: Dataset, masks: Path, samples: Any) -> float:
    confusion = Confusion(len(data.classes))
    for sample in samples:
        if sample.mask is not None:
            confusion.add(read_index_png(masks / f"{sample.name}.png"), read_mask(sample.mask))
    return 100 * float(confusion.scores().miou)


def one(
    data: Dataset, out: Path, recipe: str, settings: dict[str, Any], seed: int, shared: Path | None, plain: bool
) -> dict:
    run, kept = out / f"seed{seed}", out / f"seed{seed}.json"
    if kept.exists():
        return read_json(kept)
    if shared is not None and not run.exists():
        run.mkdir(parents=True)
        for name in ("run.json", "files.json"):
            shutil.copy(shared / name, run / name)
        for name in ("features", "frozen"):
            if (shared / name).exists():
                shutil.copytree(shared / name, run / name)
    result = tagseg.fit(data.root, run, recipe=recipe, settings={**settings, "seed": seed}, quiet=True)
    found = {
        "first": miou(data, run / "masks", data.train),
        "pseudo": result.metrics.train.pseudo_masks.miou if result.metrics.train else float("nan"),
        "segmentation": result.metrics.val.segmentation.miou if result.metrics.val else float("nan"),
        "tested": result.metrics.val.protocol.miou
        if result.metrics.val and result.metrics.val.protocol
        else float("nan"),
        "maps": result.metrics.train.seeds.miou if result.metrics.train else float("nan"),
        "seconds": sum(read_json(stage)["seconds"] for stage in run.glob("*/stage.json")),
        "cache_mb": sum(f.stat().st_size for n in ("features", "frozen") for f in (run / n).glob("*.saf*")) / 1e6,
    }
    if plain:
        return found
    chosen = resolve(recipe, {**settings, "seed": seed})
    if chosen.segment.network == "decoder":
        given: Any = SimpleNamespace(
            training=tuple(s for s in data.train if s.mask is not None),
            data=data,
            settings=chosen,
            features=lambda: FeatureStore(run / "features"),
            reporter=Reporter(quiet=True),
        )
        top = run / "ceiling"
        if not (top / "model.json").exists():
            top.mkdir(exist_ok=True)
            head, _ = teach_decoder(given, lambda s: s.mask, chosen.segment.decoder, top, "ceiling", seed=seed)  # type: ignore[arg-type]
            with_encoder(given, head, chosen.segment.decoder).save(top)
        model = tagseg.load(top)
        model.protocol = chosen.predict
        for place, how in ((top, PredictSettings().model_dump()), (top / "tested", {})):
            for sample in data.val:
                write_mask(place / f"{sample.name}.png", model.predict(sample.image, **how))
        found["ceiling"], found["ceiling_tested"] = (miou(data, p, data.val) for p in (top, top / "tested"))
    write_json(kept, found)
    return found


def picture(data: Dataset, run: Path, path: Path, rows: int = 5) -> None:
    """Evaluation photographs by a rule: ordered by the IoU of what is in them, at even steps."""
    ious = []
    for sample in (s for s in data.val if s.mask is not None and s.tags):
        truth, mask = read_mask(sample.mask), read_index_png(run / "report" / "predictions" / f"{sample.name}.png")
        ious.append((iou_of_tags(mask, truth, sample.tags), sample))
    ious.sort(key=lambda item: item[0])
    store = MapStore(run / "report" / "maps")
    lines: list[list[Any]] = []
    labels = []
    for place in np.linspace(0.02, 0.98, rows):
        iou, sample = ious[round(place * (len(ious) - 1))]
        photo = read_image(sample.image)
        maps = store.read(sample.name).only(sample.tags).at(photo.shape[:2])
        mask = read_index_png(run / "report" / "predictions" / f"{sample.name}.png")
        lines.append(
            [
                photo,
                overlay_map(photo, maps[0]),
                overlay_mask(photo, mask, voc_palette()),
                overlay_mask(photo, read_mask(sample.mask), voc_palette()),
            ]
        )
        labels.append("\n".join([*(data.classes[t] for t in sample.tags), f"{100 * iou:.0f} %"]))
    write_picture(path, contact_sheet(labels, ["photograph", "class map", "prediction", "truth"], lines))


def main() -> None:
    parser = seeds_parser(__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--plain", action="store_true", help="only the runs themselves")
    parser.set_defaults(recipe="photos/cam")
    arguments = parser.parse_args()
    data, settings = read_dataset(arguments.data), parse_assignments(arguments.set)
    first = arguments.out / f"seed{arguments.seeds[0]}"
    if arguments.picture:
        picture(data, first, arguments.picture)
        return
    found = []
    for seed in arguments.seeds:
        shared = first if seed != arguments.seeds[0] else None
        found.append(one(data, arguments.out, arguments.recipe, settings, seed, shared, arguments.plain))
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.1f}" for k, v in found[-1].items()), flush=True)
    for key in COLUMNS:
        values = [f[key] for f in found if key in f]
        if values:
            mean, spread, each = mean_spread_each(values)
            print(f"| {key} | {mean} | {spread} | {each} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{machine()}; peak memory of this process {peak:.0f} MB")


if __name__ == "__main__":
    main()
