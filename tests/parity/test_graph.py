"""The graph network of a photograph against its published code (Xavier-Pan/WSGCN, commit cb97906).

`data/graph.npz` is what its preprocessing, Laplacian, network and losses make of a random graph of 5 x 6 cells with
features of 8 channels and 4 labels, and of 25 steps of Adam without dropout.
"""

from pathlib import Path

import numpy as np
import torch

from tagseg.masks.graph import adjacency_of, laplacian_of, taught
from tagseg.masks.refinements.gcn import GraphSettings
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "graph.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}
TRAINING = GraphSettings(dropout=0.0, steps=25, entropy=10 / 4)


def test_adjacency_and_laplacian():
    r = REFERENCE
    assert_close(adjacency_of(r["affinity"]).numpy(), r["adjacency"].numpy())
    assert_close(laplacian_of(r["colours"].flatten(0, 1), (5, 6)).numpy(), r["laplacian"].numpy())


def test_what_it_has_learnt():
    """Of a gradient or a loss that were another, 25 steps would show."""
    r = REFERENCE
    names = ("gc1.weight", "gc1.bias", "gc2.weight", "gc2.bias")
    first, bias, second, end = (r[f"state.{name}"].clone() for name in names)
    labels = r["labels"].long()
    given = (r["features"], r["adjacency"], labels, r["laplacian"], 4, TRAINING)
    assert_close(taught(*given, (first, bias, second, end)).numpy(), r["probabilities"].numpy())
