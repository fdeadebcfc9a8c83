"""The pictures of the documentation: rows of photograph, class map, pseudo-mask, prediction and truth.

    python benchmarks/picture.py RUN --out docs/images/voc_mini.jpg [NAME ...]

Without names the first photographs of the run's list are shown.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

import tagseg
from tagseg.data.images import read_image, read_index_png, voc_palette
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.files import read_json
from tagseg.report.pictures import overlay_map, overlay_mask

HEIGHT, GAP, COLUMNS = 150, 6, ("photograph", "class map", "pseudo-mask", "prediction", "truth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = read_dataset(read_json(arguments.run / "run.json")["data"])
    model, store = tagseg.load(arguments.run), MapStore(arguments.run / "mine")
    samples = [s for s in data.train if s.name in arguments.names] if arguments.names else data.train[:5]
    rows = []
    for sample in samples:
        photo = read_image(sample.image)
        maps = store.read(sample.name).at(photo.shape[:2])
        mask = read_index_png(arguments.run / "masks" / f"{sample.name}.png")
        pictures = [
            photo,
            overlay_map(photo, maps[0]),
            *(overlay_mask(photo, m, voc_palette()) for m in (mask, model.predict(photo))),
        ]
        if isinstance(sample.mask, Path):
            pictures.append(overlay_mask(photo, read_index_png(sample.mask), voc_palette()))
        rows.append(pictures)
    _sheet(rows).save(arguments.out, quality=85)


def _sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    width = max(round(p.shape[1] * HEIGHT / p.shape[0]) for row in rows for p in row)
    sheet = Image.new("RGB", (len(rows[0]) * (width + GAP) - GAP, 18 + len(rows) * (HEIGHT + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS[: len(rows[0])]):
        draw.text((column * (width + GAP) + 2, 3), name, fill=(70, 80, 95))
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            size = (round(picture.shape[1] * HEIGHT / picture.shape[0]), HEIGHT)
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            left = column * (width + GAP) + (width - size[0]) // 2
            sheet.paste(Image.fromarray(small), (left, 18 + number * (HEIGHT + GAP)))
    return sheet


if __name__ == "__main__":
    main()
