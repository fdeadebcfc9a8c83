"""Class maps from text embeddings: the value path, the matching, and the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tagseg.errors import BadInput
from tagseg.networks.features import LEVELS, Levels
from tagseg.networks.texts import SCALE, TextMatcher, probabilities, read_projection, read_texts


def texts_file(path: Path, classes: list[str], background: list[str], size: int = 6, **changes: Any) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "classes": torch.randn(len(classes), size, generator=generator),
        "background": torch.randn(len(background), size, generator=generator),
    }
    names = {"classes": json.dumps(classes), "background": json.dumps(background)}
    save_file(changes.get("tensors", tensors), path, changes.get("metadata", names))
    return path


@pytest.mark.parametrize("name", ["vit_base_patch32_clip_224", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_values_are_those_of_timm_where_patches_attend_to_themselves(name: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    levels = Levels(name, values=True)
    own: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    own.load_state_dict(levels.network.state_dict())
    before: list[torch.Tensor] = []
    own.blocks[-1].register_forward_pre_hook(lambda _, given: before.append(given[0]))
    side = levels.stride
    images = torch.randn(2, 3, 3 * side, 4 * side)
    with torch.no_grad():
        own.forward_features(images)
        block = own.blocks[-1]
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: v)
        block.attn.fused_attn = True
        expected = own.norm(block.attn(block.norm1(before[0])))[:, own.num_prefix_tokens :]
        monkeypatch.undo()
        found, values = levels.parts(levels(images))
        plain = Levels(name)
        plain.load_state_dict(levels.state_dict())
        torch.testing.assert_close(found, plain(images))
    assert found.shape[1] == LEVELS * values.shape[1]
    torch.testing.assert_close(values.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)


def test_what_has_no_values_is_refused():
    with pytest.raises(BadInput, match="image tower of CLIP"):
        Levels("eva02_tiny_patch14_224", values=True)


def matcher() -> tuple[TextMatcher, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    found = TextMatcher(2)
    texts = F.normalize(torch.randn(5, 6, generator=generator), dim=1)
    found.set(texts, torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator))
    return found, torch.randn(1, 4, 2, 3, generator=generator)


def test_a_class_competes_with_all_backgrounds():
    found, values = matcher()
    odds = found(values)[0].numpy().astype(np.float64)
    for y in range(2):
        for x in range(3):
            place = found.matrix.numpy() @ values[0, :, y, x].numpy() + found.bias.numpy()
            cosines = SCALE * found.texts.numpy() @ place / np.linalg.norm(place)
            for c in range(2):
                shares = np.exp(np.r_[cosines[c], cosines[2:]] - cosines.max())
                assert odds[c, y, x] == pytest.approx(np.log(shares[0] / shares[1:].sum()), abs=1e-3)


def test_classes_compete_with_those_that_are_there():
    odds = torch.tensor([[2.0, 1.0, 9.0]])[:, :, None, None]
    found = probabilities(odds, torch.tensor([[1.0, 1.0, 0.0]]))[0, :, 0, 0]
    e = np.exp([0.0, 2.0, 1.0])
    np.testing.assert_allclose(found, [e[1] / e.sum(), e[2] / e.sum(), 0], rtol=1e-6)


def test_it_comes_back_from_its_state_whatever_the_sizes():
    found, values = matcher()
    again = TextMatcher(2)
    again.load_state_dict(found.state_dict())
    torch.testing.assert_close(again(values), found(values))


def test_rows_come_in_the_order_of_the_classes(tmp_path: Path):
    path = texts_file(tmp_path / "t.safetensors", ["cat", "dog", "cow"], ["sky"])
    all_of_them, some = read_texts(path, ["cat", "dog", "cow"]), read_texts(path, ["cow", "cat"])
    torch.testing.assert_close(some, all_of_them[[2, 0, 3]])
    torch.testing.assert_close(some.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {}}, "no file of text embeddings"),
        ({"metadata": {"classes": "[", "background": "[]"}}, "no file of text embeddings"),
        ({"metadata": {"classes": "5", "background": "[]"}}, "no file of text embeddings"),
        ({"tensors": {"classes": torch.ones(2, 6)}}, "no file of text embeddings"),
        ({"tensors": {"classes": torch.ones(3, 6), "background": torch.ones(1, 6)}}, "one row for each name"),
        ({"tensors": {"classes": torch.ones(2, 6), "background": torch.ones(1, 5)}}, "numbers each"),
        ({"tensors": {"classes": torch.zeros(2, 6), "background": torch.ones(1, 6)}}, "zero or not finite"),
        ({"tensors": {"classes": torch.full((2, 6), torch.nan), "background": torch.ones(1, 6)}}, "zero or not finite"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str):
    path = texts_file(tmp_path / "t.safetensors", ["cat", "dog"], ["sky"], **changes)
    with pytest.raises(BadInput, match=message):
        read_texts(path, ["cat"])


def test_missing_names_and_files(tmp_path: Path):
    path = texts_file(tmp_path / "t.safetensors", ["cat", "dog"], ["sky"])
    with pytest.raises(BadInput, match=r"'cats' has no embedding.*cat.*1 of 2"):
        read_texts(path, ["cats", "dog"])
    with pytest.raises(BadInput, match="no such file"):
        read_texts(tmp_path / "none.safetensors", ["cat"])
    (tmp_path / "odd.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="no file of text embeddings"):
        read_texts(tmp_path / "odd.safetensors", ["cat"])


def test_the_projection_is_the_head_of_the_weights(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"head.weight": torch.ones(6, 4)}, path)
    matrix, bias = read_projection("tower", str(path), 4, 6)
    assert matrix.shape == (6, 4)
    assert not bias.any()
    with pytest.raises(BadInput, match="do not belong to the image tower"):
        read_projection("tower", str(path), 4, 5)
