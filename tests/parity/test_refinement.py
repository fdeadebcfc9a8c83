import numpy as np
import pytest
import torch

from tagseg.masks.background import label_mask
from tagseg.masks.crf import dense_crf, dense_crf_torch
from tagseg.masks.crf_parameters import CRFS
from tagseg.masks.random_walk import directions, edge_affinity, edge_links, path, random_walk, shifted, sources
from tagseg.masks.saliency import ignore_conflicts, oaa_scores
from tagseg.masks.two_thresholds import refined_labels
from tests.parity.golden import assert_close, golden

SETS = {"psa": "psa", "irn_label": "irn-label", "deeplab": "deeplab", "toco": "toco"}


@pytest.mark.parametrize("lattice", ["all cores", "one core", "torch"])
def test_crf_gives_the_marginals_of_pydensecrf(lattice: str):
    case = golden("dense_crf")
    for array in sorted(a for a in case if a.startswith("marginals_")):
        name, labels = array.removeprefix("marginals_").rsplit("_", 1)
        crf, probabilities = CRFS[SETS[name]], case[f"probabilities_{labels}"].astype(np.float32)
        expected = case[array].astype(np.float32)
        if lattice == "torch":
            found = dense_crf_torch(case["image"], -np.log(np.clip(probabilities, 1e-5, 1)), crf, "cpu")
        else:
            found = dense_crf(case["image"], probabilities, crf, threads=1 if lattice == "one core" else None)
        assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.9995
        assert np.abs(found - expected).mean() <= 1e-5


def _in_their_order(case: dict[str, np.ndarray]) -> tuple[float, list[int]]:
    radius = float(case["radius"])
    return radius, [directions(radius).index((int(dy), int(dx))) for dy, dx in case["directions"]]


def test_paths_are_the_published_ones():
    case = golden("irn_paths")
    radius, order = _in_their_order(case)
    assert sorted(order) == list(range(len(directions(radius))))
    assert [len(path(directions(radius)[n])) for n in order] == case["path_lengths"].tolist()
    height, width = (int(v) for v in case["size"])
    cells = torch.arange(height * width).reshape(height, width)
    assert cells[sources(height, width, radius)].flatten().tolist() == case["source"].tolist()
    for number, destination in zip(order, case["destination"], strict=True):
        assert shifted(cells, directions(radius)[number], radius).flatten().tolist() == destination.tolist()


def test_edge_affinity_is_the_published_one():
    case = golden("irn_edge_affinity")
    radius, order = _in_their_order(case)
    found = edge_affinity(torch.from_numpy(case["edge"]), radius)
    assert_close(found[:, order].numpy(), case["affinity"])


def test_random_walk_ends_where_the_dense_matrix_does():
    """The reference was squared in 32 bits, which puts it 3e-5 off the same matrix in 64; this walk is 1e-7 off."""
    case = golden("irn_random_walk")
    edge, radius = case["edge"].reshape(case["edge"].shape[-2:]), float(case["radius"])
    scores = case["scores"].reshape(-1, *edge.shape) * (1 - edge)
    found = random_walk(
        scores, edge_links(edge, radius), radius, beta=float(case["beta"]), log_steps=int(case["exp_times"])
    )
    assert_close(found.reshape(case["output"].shape), case["output"], tolerance=1e-4)


def test_label_refinement_matches_the_published_code():
    case = golden("toco_label_refinement")
    found = refined_labels(
        torch.from_numpy(case["images"]),
        torch.from_numpy(case["class_maps"]),
        torch.from_numpy(case["labels"]),
        high=float(case["high"]),
        low=float(case["low"]),
        boxes=torch.from_numpy(case["boxes"]),
    )
    assert (found.numpy() != case["output"]).mean() <= 1e-3


def test_labels_from_saliency_match_the_published_code():
    case = golden("oaa_pseudo_labels")
    maps, saliency = case["attention"].astype(np.float32) / 255, case["saliency"].astype(np.float32) / 255
    labels = label_mask(oaa_scores(maps, saliency), tuple(int(c) for c in case["classes"]))
    np.testing.assert_array_equal(ignore_conflicts(labels, maps, saliency), case["labels"])
