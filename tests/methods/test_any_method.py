"""What every method owes its users, whichever it is."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tagseg.data.loading import TrainingLoader
from tagseg.errors import BadInput
from tagseg.methods.base import Method
from tagseg.methods.saved import load_saved, save_classifier, start_from
from tagseg.methods.table import load_method, method_names, method_settings
from tagseg.networks.backbone import Backbone
from tagseg.pipeline import training
from tagseg.pipeline.training import Sharing
from tests.conftest import interrupted_in, names
from tests.methods.any_method import SEGMENTERS, SHARED, affinity_taught, built, exact, segmenter_taught, some, taught

each = pytest.mark.parametrize("name", method_names())


@each
def test_the_table_knows_the_class_by_its_settings(name: str):
    kind = load_method(name)
    assert issubclass(kind, Method)
    assert kind.Settings is method_settings(name)
    assert isinstance(kind.Settings(), method_settings(name))  # the paper's values are its defaults


@each
def test_two_epochs_teach_it_and_it_resumes_between_them(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With finite gradients; and stopped in the second epoch it ends as if nothing had been."""
    kind: Any = load_method(name)
    seen: list[bool] = []
    step = kind.training_step

    def watched(self: Method, batch: Any, index: int) -> Any:
        loss = step(self, batch, index)
        assert torch.isfinite(loss)
        for parameter in self.parameters():
            if parameter.requires_grad and not getattr(parameter, "watched", False):
                parameter.register_hook(lambda g: seen.append(bool(torch.isfinite(g).all())))
                parameter.watched = True  # type: ignore[attr-defined]
        return loss

    monkeypatch.setattr(kind, "training_step", watched)
    samples, classes = some(tiny_set)
    before = built(name, classes).state_dict()
    whole = taught(name, samples, classes, tmp_path / "whole").state_dict()
    monkeypatch.setattr(kind, "training_step", step)
    assert seen
    assert all(seen)
    changed = [key for key in whole if not torch.equal(before[key], whole[key].cpu())]
    assert any("backbone" in key for key in changed) != built(name, classes).settings.frozen
    assert any("backbone.network" not in key for key in changed)
    assert all(torch.isfinite(value).all() for value in whole.values())
    with interrupted_in(kind, epoch=1):
        taught(name, samples, classes, tmp_path / "run")
    again = taught(name, samples, classes, tmp_path / "run").state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@each
@pytest.mark.parametrize("size", [(61, 117), (33, 16), (100, 50)])
def test_maps_of_any_size_lie_on_the_grid(name: str, size: tuple[int, int]):
    network = built(name, names(3)).eval()
    height, width = network.backbone.grid.fit(*size)
    with torch.inference_mode():
        images = torch.randn(2, 3, height, width)
        maps, logits = network.maps_and_logits(network.score_maps(images))
        plain = network.class_maps(images)
    assert maps.shape == plain.shape == (2, 3, *network.backbone.grid.cells(height, width))
    assert logits.shape == (2, 3)
    assert torch.isfinite(maps).all()
    assert torch.isfinite(logits).all()
    if network.segments:
        with torch.inference_mode():
            assert network.segment(images).shape[:2] == (2, 4)


@each
def test_one_class_is_learnt_or_refused_in_a_sentence(name: str, tiny_set: Path, tmp_path: Path):
    samples, _ = some(tiny_set)
    samples = tuple(replace(s, tags=s.tags and (0,)) for s in samples)
    if name == "l2g":  # its global network learns by telling classes apart
        with pytest.raises(BadInput, match="one class alone has nothing to be told from"):
            taught(name, samples, ("thing",), tmp_path)
        return
    network = taught(name, samples, ("thing",), tmp_path)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


@each
def test_it_saves_and_loads(name: str, tmp_path: Path):
    network = built(name, names(3)).eval()
    save_classifier(network, tmp_path, method=name, role="first")
    again = load_saved(tmp_path).eval()
    assert type(again) is type(network)
    assert again.classes == names(3)
    assert again.settings == network.settings
    images = torch.randn(1, 3, *network.backbone.grid.fit(64, 80))
    with torch.inference_mode():
        torch.testing.assert_close(again.class_maps(images), network.class_maps(images), rtol=0, atol=0)


@each
def test_another_process_can_be_given_it(name: str):
    network = built(name, names(3))
    again = pickle.loads(pickle.dumps(network))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@each
def test_it_learns_on_from_an_earlier_run_with_other_classes(name: str, tmp_path: Path):
    """What belongs to a class goes with the class, wherever the method keeps it."""
    before = built(name, names(3))
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_classifier(before, tmp_path / "train", method=name, role="first")
    after = built(name, (*reversed(names(3)), "other"))
    known = start_from(after, tmp_path)
    assert sorted(known) == sorted(names(3))
    old, changed = dict(before.named_parameters()), 0
    for key, value in after.named_parameters():
        if not key.startswith("backbone.network.") and value.shape[:1] == (4,) and old[key].shape[:1] == (3,):
            torch.testing.assert_close(value[:3], old[key].flip(0), msg=key)
            changed += 1
    assert changed or name in ("eps", "ktse")  # whose maps begin with that of the background


@each
def test_norms_that_are_frozen_stay_as_they_are(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They normalise by what they knew before, and learn nothing of it."""
    monkeypatch.setattr(Backbone, "keep_pretrained", lambda self, stride, norms: self.freeze(0, "frozen"))
    samples, classes = some(tiny_set)
    network = taught(name, samples, classes, tmp_path)
    norms = [m for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms or "vit" in network.backbone.name
    for norm in norms:
        assert not norm.training
        assert norm.num_batches_tracked == 0
        assert not norm.running_mean.any()
        assert (norm.weight == norm.weight.round()).all()


@pytest.mark.parametrize("name", ["ktse", "l2g-local", "ss-epa", "dupl", "mctformer-v1", "mctformer+", "weaktr"])
def test_of_a_backbone_that_stays_whole_nothing_learns_but_what_stands_on_it(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Views are as ever, so that those learn, too, which show the network other images; of two neither moves."""
    monkeypatch.setattr(Backbone, "keep_pretrained", Backbone.freeze)
    samples, classes = some(tiny_set)
    before = dict(built(name, classes, early_stride="all").state_dict())
    after = taught(name, samples, classes, tmp_path, early_stride="all").state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key].cpu())}
    assert changed - {"backbone.class_tokens"} or name == "mctformer-v1"  # which has nothing else
    assert not {key for key in changed if "backbone." in key} - {"backbone.class_tokens"}
    assert ("backbone.class_tokens" in changed) == ("backbone.class_tokens" in after)


def one_step(
    network: Method, samples: tuple[Any, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, size: int = 2
) -> torch.Tensor:
    """The loss of the first batch, in a step in which everything has set in but what waits for a later epoch."""
    monkeypatch.setattr(Method, "global_step", 3)
    monkeypatch.setattr(Method, "trainer", SimpleNamespace(current_epoch=0, max_epochs=2))
    monkeypatch.setattr(Method, "current_epoch", 0)
    network.log = lambda *_: None  # type: ignore[method-assign]
    if network.accumulates:
        network.accumulated = network.accumulator(folder, samples, [(64, 64)] * len(samples))
        monkeypatch.setattr(type(network), "accumulate", lambda *_, **__: None)
    views = network.training_views(samples, seed=0)
    torch.manual_seed(0)
    return network.training_step(next(iter(TrainingLoader(views, size, 0, threads=1))), 0)  # type: ignore[no-any-return]


@each
def test_parts_of_the_loss_are_logged_before_they_are_weighed(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As published logs have them: whatever their weights, a step tells the same of them."""
    samples, classes = some(tiny_set)
    fields = type(built(name, classes).settings).model_fields
    weights = {n: f.default for n, f in fields.items() if n.endswith("_weight") and isinstance(f.default, float)}
    told = []
    for factor in (1.0, 2.0):
        network = built(name, classes, **{n: factor * (value or 1.0) for n, value in weights.items()})
        one_step(network, samples, tmp_path / str(factor), monkeypatch)
        told.append({n: float(value) for n, value in network.terms.items()})
    assert told[1] == pytest.approx(told[0], rel=1e-3)


@each
def test_the_least_of_everything_that_is_counted_can_be_learnt_with(
    name: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One photograph a step, one crop, one view, one channel."""
    samples, classes = some(tiny_set)
    fields = type(built(name, classes).settings).model_fields
    counted = [
        n for n, f in fields.items() if f.annotation is int and any(getattr(m, "ge", 0) == 1 for m in f.metadata)
    ]
    for key in counted:
        network = built(name, classes, **{"warmup": 0.0, key: 1})
        size = 1 if key == "batch_size" else 2
        assert torch.isfinite(one_step(network, samples, tmp_path / key, monkeypatch, size)), key


# one of every kind of exchange: counts, cumulative maps, two networks, pairs, contrast; the rest is for --long
KINDS = ("cam", "oaa++", "l2g", "aeft", "ktse", "ss-epa", "seam", "mctformer+", "late", "irn", "clipped", "beco")
REST = tuple(name for name in (*method_names(), "psa", *SEGMENTERS) if name not in KINDS)


@pytest.mark.parametrize("which", [KINDS, pytest.param(REST, marks=pytest.mark.long)], ids=["kinds", "rest"])
def test_two_processes_learn_what_one_does(
    which: tuple[str, ...], tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But for rounding, and of batches that they cannot share evenly."""
    script = Path(__file__).parent / "in_two_processes.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*launcher, str(script), str(tiny_set), str(tmp_path), *which], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(Backbone, "keep_pretrained", Backbone.keep_pretrained)
    monkeypatch.setattr(training, "trainer_precision", training.trainer_precision)
    exact()
    samples, classes = some(tiny_set)
    for name in which:
        shared, second = (torch.load(tmp_path / name / f"process-{n}.pt", weights_only=True) for n in range(2))
        assert all(torch.equal(shared[key], second[key]) for key in shared), name
        if name in ("frozen", "late"):  # a decoder drops features at random, in every process others
            continue
        if name in ("psa", "irn"):
            one = affinity_taught(name, tiny_set, tmp_path / "one" / name)
            same(one, affinity_taught(name, tiny_set, tmp_path / "none" / name, epochs=0), shared)
        elif name in SEGMENTERS:
            one = segmenter_taught(name, tiny_set, tmp_path / "one" / name)
            same(one, segmenter_taught(name, tiny_set, tmp_path / "none" / name, epochs=0), shared)
        else:
            one_alone = taught(name, samples, classes, tmp_path / "one" / name, batch_size=SHARED)
            same(one_alone, built(name, classes), shared)


def same(network: torch.nn.Module, before: torch.nn.Module, shared: dict[str, torch.Tensor]) -> None:
    """Checks that a network has learnt what is `shared`, but for rounding."""
    start = dict(before.named_parameters())
    for key, value in network.named_parameters():
        # Adam's first steps are of one size wherever a gradient is not exactly zero, whatever its rounding
        moved = (value - start[key]).abs().max()
        apart = (value.cpu() - shared[key]).abs()
        assert torch.isfinite(shared[key]).all(), key
        assert apart.max() <= 1e-6 + 2.1 * moved, key
        assert (apart > 1e-6 + 0.02 * moved).float().mean() < 0.02, key


def test_a_batch_in_parts_teaches_what_it_does_at_once(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Backbone, "keep_pretrained", Backbone.keep_pretrained)
    monkeypatch.setattr(training, "trainer_precision", training.trainer_precision)
    exact()
    samples, classes = some(tiny_set)
    whole, before = taught("cam", samples, classes, tmp_path / "whole"), built("cam", classes)
    parts = taught("cam", samples, classes, tmp_path / "parts", Sharing(accumulate=2))
    same(whole, before, dict(parts.named_parameters()))
    losses = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["callbacks"] for name in ("whole", "parts")]
    one, other = ([e["loss"] for e in next(v for v in c.values() if "epochs" in v)["epochs"]] for c in losses)
    assert other == pytest.approx(one, rel=1e-3)
    loader = TrainingLoader(whole.training_views(samples, seed=0), 2, 0, threads=1, parts=2)
    assert [len(batch["image"]) for batch in loader] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("asked", "batches", "found"),
    [
        ((1, 1), (16,), (1, 1)),
        ((4, 1), (16,), (4, 1)),
        ((8, 1), (5,), (5, 1)),
        ((2, 1), (3,), (2, 1)),
        ((4, 1), (10,), (4, 1)),
        ((8, 1), (16, 8), (8, 1)),
        ((8, 1), (32, 4), (4, 1)),
        ((1, 4), (16,), (1, 4)),
        ((1, 3), (16,), (1, 3)),
        ((4, 4), (16, 8), (4, 2)),
        ((2, 100), (7,), (2, 3)),
    ],
)
def test_how_batches_are_shared(asked: tuple[int, int], batches: tuple[int, ...], found: tuple[int, int]):
    assert Sharing(*asked).of(*batches) == found
