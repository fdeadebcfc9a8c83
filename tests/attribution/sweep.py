"""The layers that are found in every family of networks, against a table that a person has checked, and their maps
against plain autograd.

    python -m tests.attribution.sweep [--only NAME ...] [--write]

Random weights. `--write` writes the table anew, to be looked at; transformers' networks need that package.
"""

import argparse
import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tagseg.attribution import GradCAM, LayerCAM
from tagseg.attribution.calling import Caller
from tagseg.attribution.formulas import grad_cam
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, find_layers

TABLE = Path(__file__).with_name("stages.json")


def logits(output: Any) -> torch.Tensor:
    """Returns the class scores in what a network of timm or transformers returns."""
    return output if isinstance(output, torch.Tensor) else output.logits


def create(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """A network with random weights, of timm, or a small one `transformers:KIND`; and its images' size."""
    torch.manual_seed(0)
    if not name.startswith("transformers:"):
        model = timm.create_model(name, num_classes=10).eval()
        return model, tuple(model.pretrained_cfg["input_size"][1:])
    import transformers

    kind = name.partition(":")[2]
    small = {"num_labels": 10, **SMALL.get(kind, {})}
    config = getattr(transformers, f"{kind}Config")(**small)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    side = config.image_size if isinstance(getattr(config, "image_size", None), int) else 224
    return model, (side, side)


SMALL: dict[str, dict[str, Any]] = {  # of transformers: settings that make the networks small
    "ViT": {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96},
    "DeiT": {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96},
    "Dinov2": {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "image_size": 112,
               "patch_size": 14},
    "Dinov2WithRegisters": {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "image_size": 112,
                            "patch_size": 14, "num_register_tokens": 4},
    "Beit": {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96,
             "use_relative_position_bias": True},
    "Swin": {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
    "Swinv2": {"embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "image_size": 256, "window_size": 8},
    "ConvNext": {"hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]},
    "ConvNextV2": {"hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]},
    "ResNet": {"depths": [2, 2, 2, 2]},
    "PoolFormer": {"depths": [2, 2, 2, 2]},
}  # fmt: skip


def found(name: str) -> tuple[nn.Module, torch.Tensor, list[Layer]]:
    """A network, an image for it, and its stages."""
    model, size = create(name)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with undisturbed(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, image, find_layers(model, "stages", image, Caller(model, logits))


def plain(model: nn.Module, layer: Layer, image: torch.Tensor) -> torch.Tensor:
    """Grad-CAM of class 3 as anybody would write it: one hook, one gradient."""
    kept: list[Any] = []
    handle = layer.module.register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        score = logits(model(image.clone().requires_grad_()))[0, 3]
    finally:
        handle.remove()
    values = kept[layer.number - 1]
    (gradient,) = torch.autograd.grad(score, values)
    size = (image.shape[2], image.shape[3])
    return grad_cam(layer.grid(values.detach(), size), layer.grid(gradient, size))


def difference(model: nn.Module, layer: Layer, image: torch.Tensor) -> float:
    """How far the map of the last stage is from `plain`, relative to its maximum."""
    expected = plain(model, layer, image)
    (maps,) = GradCAM(model, layer.name, score=logits).layer_maps(image, [3])
    return float((maps[:, 0] - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    wrong = 0
    for name in a.only or list(table):
        try:
            model, image, layers = found(name)
            names, far = [layer.name for layer in layers], difference(model, layers[-1], image)
            if far > 1e-5:  # networks that magnify the rounding of float32
                far = difference(model.double(), layers[-1], image.double())
                model, image = model.float(), image.float()
            LayerCAM(model, "stages", score=logits)(image, [3])
        except ImportError:
            print(f"{name}: left out, for transformers is not installed", flush=True)
            continue
        except Exception as error:
            names, far = [f"{type(error).__name__}: {error}"], float("nan")
        good = far < 1e-5 and (a.write or names == table.get(name))
        wrong += not good
        print(f"{name}: {', '.join(names)}; {far:.1e} from plain autograd{'' if good else '  WRONG'}", flush=True)
        if a.write and far == far:
            table[name] = names
            TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")
        model = None  # type: ignore[assignment]
        gc.collect()
    print(f"{len(a.only or table)} networks, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
