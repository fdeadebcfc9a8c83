"""Hierarchical attention decomposition: what it costs, and the studies of channels for a small VGG.

    python benchmarks/hierarchy.py DATA --out FOLDER --weights FILE --photographs 20 --studies agreement sanity

The times are of MobileNetV2 with the weights FILE (timm's `mobilenetv2_100`) at 224 pixels: a whole tree with its
pictures beside the floor, one forward and one backward pass. Then a small network in VGG's manner (five stages of two
convolutions, no normalisation) is trained on the tags of DATA for each seed, and for the study "sanity" once more on
tags that were dealt anew among the photographs; both are kept in FOLDER. The studies are those of `tagseg study`, of
evaluation photographs.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import machine
from torch import nn
from torch.nn import functional as F

from tagseg.attribution.hierarchy import Hierarchy
from tagseg.data.dataset import Dataset
from tagseg.data.images import read_image
from tagseg.data.reading import read_dataset
from tagseg.evaluation.tags import mean_average_precision
from tagseg.explaining.classifiers import Classifier, load_classifier
from tagseg.explaining.decompose import save_tree
from tagseg.masks.boxes import ILSVRC_THRESHOLD
from tagseg.studies import altered
from tagseg.studies.material import Material
from tagseg.studies.table import STUDIES

SIDE, EPOCHS, BATCH = 96, 30, 16


class SmallVGG(nn.Module):
    """Five stages of two 3 x 3 convolutions with ReLUs and a max-pool, then two linear layers on 3 x 3 cells."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        self.features, inputs = nn.Sequential(), 3
        for number, width in enumerate(widths, start=1):
            for part in (1, 2):
                self.features.add_module(f"conv{number}_{part}", nn.Conv2d(inputs, width, 3, padding=1))
                self.features.add_module(f"relu{number}_{part}", nn.ReLU())
                inputs = width
            self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.hidden, self.relu, self.classes = nn.Linear(9 * inputs, 256), nn.ReLU(), nn.Linear(256, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.relu(self.hidden(self.pool(self.features(images)).flatten(1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", help="of MobileNetV2; without them nothing is timed")
    parser.add_argument("--photographs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--studies", nargs="*", choices=list(STUDIES), default=["agreement", "sanity"])
    arguments = parser.parse_args()
    data = read_dataset(arguments.data)
    print(f"{data.root.name}, {arguments.photographs} photographs, {machine()}\n", flush=True)
    if arguments.weights:
        _times(data, load_classifier("timm:mobilenetv2_100", arguments.weights))
    some = [sample for sample in data.val if sample.tags][: arguments.photographs]
    for seed in arguments.seeds if arguments.studies else []:
        taught = small_vgg(data, arguments.out, seed, dealt_anew=False)
        for name in arguments.studies:
            wrong = small_vgg(data, arguments.out, seed, dealt_anew=True) if name == "sanity" else None
            print(f"## {name}, seed {seed}\n", flush=True)
            material = Material(
                classifier=taught,
                classes=data.classes,
                samples=some,
                methods=("layercam",),
                layers="stages",
                threshold=ILSVRC_THRESHOLD,
                against=wrong,
                top=3,
                advance=lambda *_: None,
            )
            for table in STUDIES[name].run(material).tables:
                print(table.markdown(), flush=True)


def small_vgg(data: Dataset, out: Path, seed: int, dealt_anew: bool) -> Classifier:
    """The network as it was trained before, or trained now; what it knows is printed."""
    torch.manual_seed(seed)
    model = SmallVGG(len(data.classes))
    classifier = Classifier(model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SIDE, data.classes, False)
    path = out / f"small_vgg-seed{seed}{'-dealt_anew' if dealt_anew else ''}.pt"
    tagged = [sample for sample in data.train if sample.tags]
    tags = [sample.tags for sample in tagged]
    if dealt_anew:
        random.Random(seed).shuffle(tags)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        begun = time.perf_counter()
        _train(classifier, [classifier.images([read_image(s.image)])[0] for s in tagged], tags, seed)
        print(f"{path.name}: trained in {time.perf_counter() - begun:.0f} s", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    model.eval()
    val = [sample for sample in data.val if sample.tags]
    said, truth = np.zeros((len(val), len(data.classes))), np.zeros((len(val), len(data.classes)))
    with torch.inference_mode():
        for row, sample in enumerate(val):
            said[row] = model(classifier.images([read_image(sample.image)]))[0].sigmoid()
            truth[row, list(sample.tags)] = 1
    print(f"{path.name}: mean average precision of tags {100 * mean_average_precision(said, truth):.1f}\n", flush=True)
    return classifier


def _train(classifier: Classifier, images: list[torch.Tensor], tags: list[tuple[int, ...]], seed: int) -> None:
    model, random_ = classifier.model.train(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    truth = torch.zeros(len(images), len(classifier.classes))
    for row, of_image in enumerate(tags):
        truth[row, list(of_image)] = 1
    for _ in range(EPOCHS):
        for some in torch.randperm(len(images), generator=random_).split(BATCH):
            batch = torch.stack([images[i] for i in some])
            if torch.rand((), generator=random_) < 0.5:
                batch = batch.flip(3)
            loss = F.binary_cross_entropy_with_logits(model(batch), truth[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def _times(data: Dataset, classifier: Classifier) -> None:
    """Milliseconds of a whole tree and of what it is made of, medians over photographs after the first."""
    photos = [read_image(sample.image) for sample in data.val[:6]]
    hierarchy = Hierarchy(classifier.model, levels=3)
    rows: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        rows.setdefault(name, []).append(1000 * (time.perf_counter() - begun))

    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(photos):
            image = classifier.images([photo])
            tree = hierarchy(image, pixels=True)[0][0]
            timed("floor: one forward and one backward pass to the pixels", lambda i=image: _floor(classifier, i))
            timed("tree of three levels, 39 channels", lambda i=image: hierarchy(i))
            timed("tree traced to the pixels", lambda i=image: hierarchy(i, pixels=True))
            timed(
                "pictures, figure and JSON",
                lambda t=tree, p=photo, n=number: save_tree(t, p, "", Path(folder) / str(n)),
            )
    print("| | ms |\n|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {np.median(values[1:]):.0f} |")
    print(flush=True)


def _floor(classifier: Classifier, image: torch.Tensor) -> None:
    altered.gradient(classifier.model, image, 0)


if __name__ == "__main__":
    main()
