"""Studies of channels on the tiny set: the numbers that must hold, and that every one runs and writes its files."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import tagseg
from tagseg.attribution.gap import Recorder
from tagseg.attribution.hierarchy import Hierarchy
from tagseg.data.dataset import Sample, read_mask
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.studies import altered, decomposed
from tagseg.studies.decomposed import Example, overlapping_label, pearson
from tests.attribution.test_hierarchy import Unbiased, images

CHANNELS = [  # the studies of what single channels do
    "agreement",
    "contributions",
    "discriminativeness",
    "context",
    "sanity",
    "surrogate",
    "removal",
    "adversarial",
]


def cases(count: int = 3) -> list[Example]:
    sample = Sample(name="x", image=None, tags=(0, 1, 2, 3, 4), mask=None)  # every class counts as right
    return [Example(sample, images(count)[n : n + 1]) for n in range(count)]


@pytest.mark.parametrize("name", CHANNELS)
def test_every_study_runs_on_a_run(name, tiny_set, tiny_run, tmp_path):
    if name in ("sanity", "removal"):
        pytest.importorskip("captum")
    against = {"against": tiny_run.folder} if name == "sanity" else {}
    done = tagseg.study(name, tiny_set, tiny_run.folder, tmp_path, limit=3, split="train", quiet=True, **against)
    assert all(table.rows for table in done.tables)
    assert done.text.is_file()
    assert done.picture.is_file()
    if name == "sanity":
        assert [cell for row in done.tables[1].rows for cell in row] == ["1.000"] * len(done.tables[1].columns)


def test_agreement_is_whole_where_the_network_is_linear_and_nothing_is_put_in():
    found = decomposed.agreement(cases(), Hierarchy(Unbiased().eval(), top=2))
    nothing = next(table for table in found.tables if "nothing" in table.title)
    assert nothing.rows[0][1] == "1.000"  # the deepest layer feeds the score linearly
    assert all(float(row[1]) > 0.5 for row in nothing.rows)
    first = next(table for table in found.tables if "its map's mean" in table.title)
    assert all(float(row[5]) > 0.5 for row in first.rows[1:])


def test_curves_hold_shares_that_fall():
    found = decomposed.contributions(cases(), Hierarchy(Unbiased().eval(), top=2))
    for xs, ys in found.lines.values():
        assert list(xs) == list(range(1, len(xs) + 1))
        assert all(a >= b for a, b in pairwise(ys))
    assert all(row[3] <= row[2] <= row[1] for row in found.tables[0].rows)


def test_the_tail_by_ablation_and_what_layers_look_at(tiny_set, tiny_run, tmp_path):
    told = {"limit": 3, "split": "train", "quiet": True, "top": 2}
    tables = tagseg.study("agreement", tiny_set, tiny_run.folder, tmp_path, **told).tables
    tail = next(table for table in tables if "by ablation" in table.title)
    assert all(0 < row[2] <= row[3] <= row[4] <= 100.001 for row in tail.rows)
    _, levels = tagseg.study("context", tiny_set, tiny_run.folder, tmp_path, **told).tables
    assert len(levels.rows) > 1
    assert all(sum(row[2:]) == pytest.approx(100) for row in levels.rows)
    with pytest.raises(BadInput, match="top 0"):
        tagseg.study("context", tiny_set, tiny_run.folder, tmp_path, **{**told, "top": 0})


def test_regions_of_pascal_context_say_what_is_looked_at(tiny_set, tiny_run, tmp_path):
    from scipy.io import savemat

    data = read_dataset(tiny_set)
    told = {"split": "train", "limit": 3, "quiet": True, "top": 2}
    names = ["sky", *data.classes, *(f"thing {n}" for n in range(400)), "grass"]
    (tmp_path / "context/trainval").mkdir(parents=True)
    (tmp_path / "context/labels.txt").write_text("".join(f"{n}: {name}\n" for n, name in enumerate(names, start=1)))
    with pytest.raises(BadInput, match=r"neither there nor in trainval/ is a \.mat file"):
        tagseg.study("context", tiny_set, tiny_run.folder, tmp_path, regions=tmp_path / "context", **told)
    for sample in data.train:
        mask = read_mask(sample.mask)
        labels = np.where(mask == 0, len(names), 1 + mask.astype(int))  # background is grass, classes are themselves
        labels[mask == 255] = 0  # 255 itself is a label of theirs
        savemat(tmp_path / "context/trainval" / f"{sample.name}.mat", {"LabelMap": labels.astype(np.uint16)})
    _, own = tagseg.study("context", tiny_set, tiny_run.folder, tmp_path, **told).tables
    strongest, levels = tagseg.study(
        "context", tiny_set, tiny_run.folder, tmp_path, regions=tmp_path / "context", **told
    ).tables
    assert any("grass" in row[3] for row in strongest.rows[:-1])
    assert levels.rows == own.rows
    with pytest.raises(BadInput, match="no use for regions"):
        tagseg.study("boxes", tiny_set, tiny_run.folder, tmp_path, regions=tmp_path / "context", **told)
    (tmp_path / "context/trainval" / f"{data.train[0].name}.mat").write_bytes(b"no")
    with pytest.raises(BadInput, match="the labels cannot be read"):
        tagseg.study("context", tiny_set, tiny_run.folder, tmp_path, regions=tmp_path / "context", **told)


def test_discriminative_channels_by_hand(monkeypatch):
    from collections import Counter

    assert decomposed._discriminative(Counter({3: 6, 1: 2})) == (0.75, 3)


def test_the_label_under_a_map():
    mask = np.zeros((40, 40), np.uint8)
    mask[:20, :20] = 5
    mask[20:, 20:] = 255
    map_ = torch.zeros(4, 4)
    map_[:2, :2] = 1
    assert overlapping_label(map_, mask) == 5
    map_ = torch.zeros(4, 4)
    map_[2:, 2:] = 1
    assert overlapping_label(map_, mask) is None  # nobody knows what lies there
    assert overlapping_label(torch.ones(4, 4), mask) == 0
    assert overlapping_label(-torch.ones(4, 4), mask) is None


def test_correlation_of_what_is_constant_is_none():
    assert pearson(torch.ones(4), torch.arange(4.0)) is None
    assert pearson(torch.arange(4.0), 3 - torch.arange(4.0)) == pytest.approx(-1)


def test_a_surrogate_that_keeps_everything_agrees():
    found = altered.surrogate(cases(), Hierarchy(Unbiased().eval()))
    rows = {(row[0], row[1]): row for row in found.tables[0].rows}
    assert rows["deepest layer", 16][3] == 100  # all 16 channels
    assert rows["2 deepest layers", 16][3] == 100
    assert ("3 deepest layers", 4) in rows
    assert ("3 deepest layers", 8) not in rows


def test_removing_all_channels_leaves_no_score():
    pytest.importorskip("captum")
    found = altered.removal(cases(2), Hierarchy(Unbiased().eval()))
    by = {(row[0], row[1]): row for row in found.tables[0].rows}
    assert {name for _, name in by} == {"gAP", "Conductance", "Internal Influence", "LRP", "at random"}
    assert by["stage3", "gAP"][-1] == pytest.approx(by["stage3", "at random"][-1], abs=1e-4)  # 32 of 16 channels


def test_importance_is_handed_down_and_nothing_of_it_is_lost():
    model = Unbiased().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # nothing speaks against anything: shares add up to 1
    recording = Recorder(model)(images().abs())
    found = altered.propagated(recording, 1)
    assert [len(values) for values in found] == [8, 12, 16]
    torch.testing.assert_close(found[2], recording.parts([recording.score(0, 1)])[0].shares.detach())
    for values in found:
        assert values.sum().item() == pytest.approx(1, rel=1e-4)


def test_a_cascade_randomises_from_the_top_and_leaves_the_network():
    model = Unbiased().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = []
    for name, copy in altered.cascade(model):
        differs = {n for n, v in copy.state_dict().items() if not torch.equal(v, before[n])}
        changed.append((name, len(differs)))
    assert [name for name, _ in changed] == ["linear", "stage3", "stage2", "stage1"]
    assert [count for _, count in changed] == [1, 2, 3, 4]
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_ranks_correlate():
    values = torch.rand(5, 5)
    assert altered.spearman(values, values**3) == pytest.approx(1)
    assert altered.spearman(values, -values) == pytest.approx(-1)
    assert altered.spearman(values, torch.zeros(5, 5)) == 0


def test_hierarchical_gradients_are_gradients_where_one_channel_is_all():
    model = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.eval()
    hierarchy = Hierarchy(model, ["1"])
    found = altered.hierarchical_gradient(hierarchy, images(), 0)
    node = hierarchy(images(), [0])[0][0].children[0]
    assert torch.equal(
        (found.abs().amax(dim=0) > 0).nonzero().float().mean(dim=0).round(), torch.tensor([node.y, node.x]).float()
    )


def test_bent_images_say_the_second_class():
    model = Unbiased().eval()
    first, second = model(images())[0].topk(2).indices.tolist()
    bent = altered.bend(model, images(), first, second)
    assert bent is not None
    assert int(model(bent)[0].argmax()) == second
    assert float((bent - images()).abs().max()) <= altered.LONGEST + 1e-5


def test_classes_must_fit_where_tags_count(tiny_set, tmp_path):
    with pytest.raises(BadInput, match="has 1000 classes"):
        tagseg.study("removal", tiny_set, "timm:test_resnet", tmp_path, weights="random", quiet=True)
    done = tagseg.study(
        "contributions", tiny_set, "timm:test_resnet", tmp_path, weights="random", side=64, limit=1, quiet=True
    )
    assert done.tables[0].rows
