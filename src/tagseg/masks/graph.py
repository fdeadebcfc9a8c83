"""A graph network of a single photograph, which completes what is sure of its class maps: Pan et al.,
"Weakly-supervised image semantic segmentation using graph convolutional networks", ICME 2021.

Cells are nodes, and those that look alike are joined. Two layers of graph convolution (Kipf and Welling, ICLR 2017)
learn the few cells whose labels are sure, in every photograph anew; what they say of the others are its maps. There the
graph is that of IRN, here the affinity of a frozen network's features, so that nothing else has to learn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.errors import BadInput
from tagseg.labels import IGNORE
from tagseg.masks.proxy import proxy_affinity
from tagseg.masks.refinements.gcn import MOST, GraphSettings

REACH = 2  # cells, within which neighbours shall say alike
COLOUR, PLACE = 12.0, 20.0  # squared distances of features and of cells over which that fades


def adjacency_of(affinity: torch.Tensor) -> torch.Tensor:
    """Returns an affinity `(n, n)` as symmetric as its larger half, with every node its own neighbour, rows summing to
    1."""
    both = torch.maximum(affinity, affinity.T) + torch.eye(len(affinity), device=affinity.device)
    return both / both.sum(dim=1, keepdim=True)


def laplacian_of(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns the Laplacian `(n, n)` of a graph of near cells (section 3.2), which weigh less the less they are alike.

    Args:
        features: `(n, D)` of unit length.
        size: (h, w), n = h w.
    """
    height, width = size
    numbers = torch.arange(height * width).view(size)
    weights = torch.zeros(len(features), len(features))
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            here = numbers[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)].flatten()
            there = here + dy * width + dx
            apart = (features[here] - features[there]).square().sum(dim=1) / COLOUR + (dy * dy + dx * dx) / PLACE
            weights[here, there] = (-apart).exp()
    return torch.diag(weights.sum(dim=1)) - weights


Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def first_weights(features: int, hidden: int, outputs: int, generator: torch.Generator) -> Weights:
    """Returns random weights of both layers, `(D, hidden)`, `(hidden,)`, `(hidden, L)` and `(L,)`."""

    def drawn(*shape: int) -> torch.Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) * shape[-1] ** -0.5

    return drawn(features, hidden), drawn(hidden), drawn(hidden, outputs), drawn(outputs)


def taught(
    features: torch.Tensor,
    adjacency: torch.Tensor,
    labels: torch.Tensor,
    laplacian: torch.Tensor,
    outputs: int,
    settings: GraphSettings,
    start: Weights | None = None,
) -> torch.Tensor:
    """Returns the probabilities `(n, L)` that a graph network finds once it has learnt the labels.

    Its loss (section 3.2) is the mean loss over cells of objects, that over background cells, the entropy of cells
    without a label, and how much neighbours differ. Gradients are written out: the graph of so small a network takes
    longer than its products, and the first product of the adjacency is the same in every step.

    Args:
        features: `(n, D)`.
        adjacency: `(n, n)`, see `adjacency_of`.
        labels: `(n,)` int64, 0 background, 255 where not sure.
        laplacian: `(n, n)`, see `laplacian_of`.
        outputs: L.
        settings: how it learns.
        start: the first weights; None: they are random, and always the same.
    """
    count, stays = len(features), 1 - settings.dropout
    generator = torch.Generator().manual_seed(0)  # its own, for photographs go side by side
    weights = start or first_weights(features.shape[1], settings.hidden, outputs, generator)
    gathered, backwards = adjacency @ features, adjacency.T.contiguous()
    smoothing = laplacian * (2 * settings.smooth / count)
    wanted, unknown = label_gradient(labels, outputs), (labels == IGNORE)[:, None].float()
    unknown *= settings.entropy / unknown.sum().clamp(min=1)
    adam = _Adam(weights, settings)

    def said(kept: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        inner = torch.addmm(weights[1], gathered, weights[0]).relu_() * kept
        return inner, torch.addmm(weights[3], adjacency, inner @ weights[2]).log_softmax(dim=1)

    with torch.inference_mode():
        for _ in range(settings.steps):
            kept = (torch.rand(count, settings.hidden, generator=generator) < stays) / stays
            inner, found = said(kept)
            probability = found.exp()
            slope = torch.addmm(wanted, smoothing, found) - unknown * probability * (found + 1)
            slope -= probability * slope.sum(dim=1, keepdim=True)  # through the softmax
            spread = backwards @ slope
            below = (spread @ weights[2].T) * kept * (inner > 0)
            adam.step((gathered.T @ below, below.sum(dim=0), inner.T @ spread, slope.sum(dim=0)))
        return said(1.0)[1].exp()


def label_gradient(labels: torch.Tensor, outputs: int) -> torch.Tensor:
    """Returns how the loss of the labels changes with the log-probabilities: `(n,)` -> `(n, L)`.

    Background and objects weigh alike, whatever their number.
    """
    slope = torch.zeros(len(labels), outputs)
    for chosen in (labels == 0, (labels != 0) & (labels != IGNORE)):
        slope[chosen, labels[chosen]] = -1 / chosen.sum().clamp(min=1)
    return slope


class _Adam:
    """Adam with the decay that torch's has, in place, for a few small tensors."""

    def __init__(self, weights: Weights, settings: GraphSettings) -> None:
        self.weights, self.rate, self.decay = weights, settings.learning_rate, settings.weight_decay
        self.first, self.second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        self.count = 0

    def step(self, gradients: Weights) -> None:
        """Moves the weights once."""
        self.count += 1
        for weight, gradient, first, second in zip(self.weights, gradients, self.first, self.second, strict=True):
            moved = gradient.add(weight, alpha=self.decay)
            first.lerp_(moved, 0.1)
            second.mul_(0.999).addcmul_(moved, moved, value=0.001)
            below = (second / (1 - 0.999**self.count)).sqrt_().add_(1e-8)
            weight.addcdiv_(first, below, value=-self.rate / (1 - 0.9**self.count))


def sure_labels(scores: np.ndarray, share: float) -> np.ndarray:
    """Returns the labels that are sure: of the cells that a label wins, those where its score is highest.

    Args:
        scores: `(L, n)`, background first.
        share: of the cells that a label wins, which are sure.

    Returns:
        `(n,)` int64, 255 where nothing is.
    """
    won = scores.argmax(axis=0)
    tied = (scores == scores.max(axis=0)).sum(axis=0) > 1  # of such a cell nothing is known
    labels = np.full(scores.shape[1], IGNORE, dtype=np.int64)
    for label, score in enumerate(scores):
        mine = won == label
        if mine.any():
            labels[mine & ~tied & (score >= np.quantile(score[mine], 1 - share, method="higher"))] = label
    return labels


def complete(features: np.ndarray, scores: np.ndarray, settings: GraphSettings) -> np.ndarray:
    """Returns the probabilities of all labels of every cell, completed from those cells that are sure.

    Args:
        features: `(D, h, w)` of a frozen network.
        scores: `(L, h, w)`, background first.
        settings: which cells are sure, which are joined, and how the graph network learns.

    Returns:
        `(L, h, w)` float32 that sum to 1.

    Raises:
        BadInput: there are too many cells for a graph of all pairs.
    """
    if features[0].size > MOST:
        raise BadInput(
            f"gcn: {features.shape[1]} x {features.shape[2]} cells are too many for a graph of all pairs ({MOST} at "
            "most); set a smaller encoder.side."
        )
    size = (features.shape[1], features.shape[2])
    cells = torch.from_numpy(features).flatten(1).T.float()
    unit = F.normalize(cells, dim=1)
    labels = torch.from_numpy(sure_labels(scores.reshape(len(scores), -1), settings.sure))
    found = taught(
        unit * unit.shape[1] ** 0.5,
        adjacency_of(proxy_affinity(cells, settings.beta, settings.gamma)),
        labels,
        laplacian_of(unit, size),
        len(scores),
        settings,
    )
    return found.T.reshape(len(scores), *size).numpy()
