from pathlib import Path

import pytest

from tagseg.errors import BadInput
from tagseg.methods.table import method_settings
from tagseg.pipeline.settings import parse_assignments, recipe_names, resolve, saliency_settings
from tagseg.settings import as_ever, parse_saved


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_whole(name: str):
    settings = resolve(name)
    shown = settings.model_dump(mode="json")["train"]  # as reports and `tagseg recipes` show it
    assert shown == settings.train.model_dump(mode="json")
    assert shown["epochs"] > 0


def test_overrides_win_over_the_recipe():
    settings = resolve("voc/cam", {"train.epochs": 3, "seed": 7, "masks.background": 0.25})
    assert (settings.train.epochs, settings.seed, settings.masks.background) == (3, 7, 0.25)
    assert settings.train.optimiser == "sgd"
    assert resolve("voc/cam").train.epochs == 5


def test_a_recipe_from_a_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: cam\nsegment: {head: largefov}\n")
    assert resolve(str(path)).segment.head == "largefov"


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("cma", {}, "did you mean 'cam'"),
        ("nowhere.yaml", {}, "no such recipe file"),
        ("cam", {"train.epoch": 3}, "no setting 'train.epoch'; did you mean 'epochs'"),
        ("cam", {"segmnet.epochs": 3}, "no setting 'segmnet'; did you mean 'segment'"),
        ("cam", {"train.epochs": "many"}, "'train.epochs' cannot be 'many'"),
        ("mini/cam", {"train.optimiser": "sgd-steps"}, "falls where train.drops says; set train.hold to 0"),
        ("cam", {"train.drops": [0.5]}, "others have train.hold"),
        ("recam", {"train.optimiser": "sgd-steps", "train.second_learning_rate": 1e-5}, "and begins once"),
        ("cam", {"method": "camm"}, "method 'camm' does not exist; did you mean 'cam'"),
        ("cam", {"seed": 1, "seed.part": 1}, "'seed' is a single value"),
        ("cam", {"mine.scales": []}, "'mine.scales' cannot be"),
        ("cam", {"train.epochs": 0}, "'train.epochs' cannot be 0"),
        ("cam", {"masks.background": 1.5}, "'masks.background' cannot be 1.5: Input should be 'auto' or .* less than"),
        ("cam", {"segment.batch_size": -1}, "'segment.batch_size' cannot be -1"),
        ("oaa+", {"train.integral.epoch": 3}, "no setting 'train.integral.epoch'; did you mean 'epochs'"),
        ("oaa+", {"train.integral.loss": "plain"}, "'train.integral.loss' cannot be 'plain'"),
        ("oa++", {}, r"did you mean 'oaa\+\+'"),
        ("cam", {"train.scales": [2, 1]}, "'train.scales' cannot be .*smaller scale comes first"),
    ],
)
def test_bad_settings_are_named(recipe: str, overrides: dict[str, object], words: str):
    with pytest.raises(BadInput, match=words):
        resolve(recipe, overrides)


def test_a_broken_recipe_file(tmp_path: Path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(BadInput, match="not valid YAML"):
        resolve(str(path))
    path.write_text("- a\n")
    with pytest.raises(BadInput, match="a recipe is a table"):
        resolve(str(path))


def test_assignments():
    assert parse_assignments(["a.b=4", "c=[1, 2.5]", "d=x"]) == {"a.b": 4, "c": [1, 2.5], "d": "x"}
    for bad in ("a", "=3", "a=["):
        with pytest.raises(BadInput, match="--set"):
            parse_assignments([bad])


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [("l2g", "train.saliency"), ("l2g-local", "train.saliency"), ("eps", None), ("cam", "masks.saliency")],
)
def test_saliency_goes_where_the_method_uses_it(recipe: str, setting: str | None):
    found = saliency_settings(recipe, "auto")
    assert found == {"data.saliency": "auto", **({setting: True} if setting else {})}
    assert resolve(recipe, found).data.saliency == "auto"


def test_settings_that_came_later_make_nothing_of_an_older_run_again():
    """Where they say what it did; L2G had its `statistics` from the beginning."""
    assert as_ever(resolve("cam").train) == {"drops", "early_stride"}
    assert as_ever(resolve("cam", {"train.early_stride": 8}).train) == {"drops"}
    assert as_ever(resolve("sipe").train) == {"drops", "early_stride"}
    assert as_ever(resolve("spg").train) == {"convolutions", "drops", "early_stride", "loss"}
    assert as_ever(resolve("toco").train) == {"early_stride", "statistics"}
    assert as_ever(resolve("l2g").train) == {"early_stride"}
    assert "products" not in as_ever(resolve("recam").train)  # older runs had signed ones
    assert "products" in as_ever(resolve("voc/recam").train)
    assert as_ever(resolve("cam").segment) == {"early_stride"}


def test_what_an_older_run_says_is_read_as_it_was():
    kind = method_settings("recam")
    told = kind().model_dump(mode="json")
    assert parse_saved(kind, told, "classifier.json").products == "positive"
    del told["products"], told["drops"]
    assert parse_saved(kind, told, "classifier.json").products == "signed"
    old = method_settings("seenet")().model_dump(mode="json")
    del old["background"]
    assert parse_saved(method_settings("seenet"), old, "classifier.json").background == "halfway"
