"""timm, and ResNet-38, behind one small door: an image goes in, one grid of features comes out, and the grid's geometry
is known."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from tagseg.errors import BadInput, brief, nearest
from tagseg.grid import Grid
from tagseg.networks import caffe_resnet, mix_transformer, resnet38, vit_depth8
from tagseg.networks.mix_transformer import MixTransformer
from tagseg.networks.mxnet import read_mxnet
from tagseg.networks.vgg import NARROW, is_vgg, refit
from tagseg.networks.weights import CLASSIFIER, earlier_run
from tagseg.settings import EarlyStride, Norms, OutputStride, Statistics

COLOURS = {  # mean and deviation of R, G and B
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "coco": ((0.471, 0.448, 0.408), (0.234, 0.239, 0.242)),  # of its training photographs (L2G's published code)
}


class Backbone(nn.Module):
    """Any timm network, or ResNet-38, as `(B, 3, H, W) -> (B, D, h, w)`, its last features before pooling.

    `grid` says where the cells of the features lie (see `tagseg.grid`): `grid.fit` gives the nearest image size that
    they cover exactly, and `grid.resize` interpolates maps with the matching convention, so that no row is lost and
    nothing is shifted by half a cell.

    Args:
        name: timm's name of the architecture, "resnet38", "resnet101_caffe", "vit_small_patch16_224_depth8", or
            "mit_b0" to "mit_b5".
        weights: `"pretrained"` (timm's own, downloaded), `"random"`, a `.safetensors`, `.pth` or `.params` file, or the
            folder of an earlier run.
        output_stride: 8, 16 or 32 for networks that can dilate; None for the network's own; "auto" for 16 where the
            network can have it, and else for its own.

    Raises:
        BadInput: unknown name, weights that do not fit, or a stride the network does not have.
    """

    network: Any  # timm has no common type

    def __init__(self, name: str, weights: str = "random", output_stride: OutputStride = None) -> None:
        super().__init__()
        if output_stride == "auto":
            output_stride = 16 if _can_have_16(name) else None
        self.name, self.output_stride = name, output_stride
        self.pretrained = weights != "random"
        self.network = _create(name, weights, output_stride)
        config = self.network.pretrained_cfg
        self.mean: tuple[float, float, float] = tuple(config.get("mean", (0.485, 0.456, 0.406)))
        self.std: tuple[float, float, float] = tuple(config.get("std", (0.229, 0.224, 0.225)))
        self.local = not any("attn" in name.split(".") for name, _ in self.network.named_modules())  # no attention
        try:
            self.channels, stride = _probe(self.network)
        except Exception as error:  # whatever a network does whose features are no grid
            raise BadInput(
                f"'{name}' does not give features on a grid of cells ({brief(error)}); choose another backbone."
            ) from error
        self.grid = Grid(stride, corners=_first_stride_is_odd(self.network))
        if output_stride is not None and self.stride != output_stride:
            raise BadInput(
                f"output_stride={output_stride}: '{name}' has stride {self.stride} and cannot be dilated; "
                "set output_stride=null or choose another backbone."
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the last features before pooling. `(B, 3, H, W) -> (B, D, h, w)`.

        If the network is held, features that it gave before pass through as they are.
        """
        return images if self.held and images.shape[1] == self.channels else self.features(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Computes what `forward` returns of images."""
        return _as_grid(self.network, self.network.forward_features(images), images.shape[-2:])

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features at the end of every stage, fine to coarse: `(B, D_i, h_i, w_i)`.

        Those of the last stage are the ones before pooling. A plain transformer has no stages: four of its blocks,
        evenly spread, stand for them.

        Raises:
            BadInput: timm cannot give this network's features.
        """
        return self._intermediates(images, intermediates_only=True)

    def with_stages(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the features that `forward` gives and those that `stages` gives, in one pass."""
        features, stages = self._intermediates(images, intermediates_only=False)
        return _as_grid(self.network, features, images.shape[-2:]), stages

    def _intermediates(self, images: torch.Tensor, *, intermediates_only: bool) -> Any:
        if not hasattr(self.network, "forward_intermediates"):
            raise BadInput(f"'{self.name}' does not give the features of its stages; choose another backbone.")
        blocks = [info["reduction"] for info in self.network.feature_info]
        plain = len(blocks) > 6 and len(set(blocks)) == 1
        chosen = [round(len(blocks) * (i + 1) / 4) - 1 for i in range(4)] if plain else None
        return self.network.forward_intermediates(
            images, indices=chosen, intermediates_only=intermediates_only, output_fmt="NCHW"
        )

    @torch.no_grad()
    def stage_shapes(self) -> tuple[list[int], list[int]]:
        """Returns the channels and the strides of `stages`."""
        training, side = self.training, 224
        stages = self.eval().stages(next(self.parameters()).new_zeros(1, 3, side, side))
        self.train(training)
        return [s.shape[1] for s in stages], [round(side / s.shape[-1]) for s in stages]

    def inner_widths(self) -> tuple[int, int]:
        """Returns the channels of the two stages before the last one, the shallower one first."""
        widths = self.stage_shapes()[0]
        return widths[-3], widths[-2]

    @property
    def stride(self) -> int:
        """Returns the pixels from one cell of the features to the next."""
        return self.grid.stride

    def freeze(self, stride: EarlyStride, norms: Norms) -> None:
        """Keeps the early part, and of batch normalisations what they know, as they are.

        Both are usual when ImageNet weights meet small batches; what is frozen costs no backward pass.

        Args:
            stride: the early part reaches to the end of the first stage that has this stride (2: the stem), but never
                to the last two stages; 0: everything learns; "all": nothing does. Of ResNet-38, as published, and of
                mix transformers it is always the first stage.
            norms: "batch": they normalise by the batch; "statistics": by what they know, and their factors and offsets
                learn; "frozen": by what they know, and learn nothing.
        """
        if stride == "all":
            return self.hold()
        if stride:
            for parameter in _parameters_to_stride(self.network, stride):
                parameter.requires_grad_(False)
        self.frozen_norms = norms != "batch"
        if norms == "frozen":
            for module in _batch_norms(self.network):
                module.requires_grad_(False)
        self.train(self.training)  # nobody need call it again: Lightning takes modules in the mode that they are in

    def keep_pretrained(self, stride: EarlyStride, norms: Norms) -> None:
        """Freezes what is pretrained, as the arguments of `freeze` say; random weights all learn."""
        if self.pretrained:
            self.freeze(stride, norms)

    def expect(self, statistics: Statistics) -> None:
        """Normalises photographs by other colours than those that the weights have seen: ImageNet's or COCO's."""
        if statistics != "backbone":
            self.mean, self.std = COLOURS[statistics]

    frozen_norms: bool = False
    held: bool = False

    def hold(self) -> None:
        """Keeps everything as it is, for good: nothing learns, and the mode stays evaluation."""
        self.held = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode to training or evaluation; what is frozen stays in evaluation."""
        super().train(mode and not self.held)
        if self.frozen_norms:
            for module in _batch_norms(self.network):
                module.eval()
        return self


@cache
def _can_have_16(name: str) -> bool:
    """Whether a network can be dilated to a stride of 16, or has it."""
    try:
        with torch.random.fork_rng(devices=[]):  # what is asked once must not move the random numbers of who asks first
            return _probe(_create(name, "random", 16))[1] == 16
    except BadInput:
        if name in _OWN or timm.is_model(name):
            return False
        raise


def stand_in(name: str, weights: str) -> str:
    """Returns weights to try a network with before it is needed.

    They are random ones instead of those that would be downloaded.
    """
    return "random" if weights == "pretrained" and name not in _OWN else weights


def on_canvas(
    network: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    stride: int,
    batch: int,
    *,
    local: bool = True,
) -> torch.Tensor:
    """Computes `network(images)`, on a GPU inside a square and a full batch, so that few input shapes occur.

    cuDNN takes seconds to choose its kernels for every new shape, and photographs come in dozens of shapes. Elsewhere
    the images go through as they are, and so they do if what is beside them would be attended to.

    Args:
        network: `(B, 3, H, W) -> (B, K, h, w)` with one cell per `stride` pixels.
        images: `(B, 3, H, W)`, of a size that the network's `Grid.fit` gives.
        stride: of the network.
        batch: B of a full batch.
        local: of the network's backbone: that it is convolutional.
    """
    square = images.device.type == "cuda" and local
    return _in_square(network, images, stride, batch) if square else network(images)


def _in_square(
    network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, stride: int, batch: int
) -> torch.Tensor:
    count, _, height, width = images.shape
    side = max(height, width)
    canvas = images.new_zeros(max(count, batch), 3, side, side).contiguous(memory_format=torch.channels_last)
    canvas[:count, :, :height, :width] = images
    return network(canvas)[:count, :, : -(-height // stride), : -(-width // stride)]


def _create(name: str, weights: str, output_stride: int | None) -> nn.Module:
    if name in _OWN:
        return _create_own(name, weights, output_stride)
    if not timm.is_model(name):
        known = [*timm.list_models(), *_OWN]
        raise BadInput(f"backbone '{name}' is not a timm model{nearest(name, known) or '.'}")
    options: dict = {"num_classes": 0, "global_pool": ""}
    if output_stride is not None and output_stride != 32:
        options["output_stride"] = output_stride
    try:
        if is_vgg(name):
            stride = options.pop("output_stride", None)
            network = refit(_create_flexible(name, {**options, **NARROW}), stride)
        else:
            network = _create_flexible(name, options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        if output_stride in (None, 32):
            raise
        raise BadInput(
            f"output_stride={output_stride}: '{name}' does not offer it ({brief(error)}); set output_stride=null."
        ) from error
    if weights == "random":
        return network
    if weights == "pretrained":
        try:
            source = timm.create_model(name, pretrained=True)
        except Exception as error:
            raise BadInput(
                f"the weights of '{name}' could not be fetched ({type(error).__name__}); "
                "give a local file with --weights FILE (of an encoder --encoder-weights FILE), or random ones."
            ) from error
        state = source.state_dict()
    else:
        state = read_weights(Path(weights))
    _load(network, state, weights)
    return network


class _Own(NamedTuple):
    """A network that timm does not have.

    create: makes it, of an output stride.
    renamed: makes its state dict of published weights.
    strides: those it can have, its own first.
    weights: where published ones come from.
    """

    create: Callable[[int | None], Any]
    renamed: Callable[[Any], Any]
    strides: tuple[int, ...]
    weights: str


_OWN = {
    resnet38.NAME: _Own(
        lambda _: resnet38.ResNet38(),
        resnet38.from_mxnet,
        (8,),
        "those of its authors (ilsvrc-cls_rna-a1_cls1000_ep-0001.params) or a .pth",
    ),
    caffe_resnet.NAME: _Own(
        caffe_resnet.create,
        caffe_resnet.from_published,
        caffe_resnet.STRIDES,
        "those of deeplab-pytorch (deeplabv1_resnet101-coco.pth, which has seen COCO's masks)",
    ),
    vit_depth8.NAME: _Own(
        lambda _: vit_depth8.create(),
        vit_depth8.from_published,
        (16,),
        "those of timm's first releases (vit_small_p16_224-15ec54c9.pth)",
    ),
    **{
        name: _Own(
            partial(MixTransformer, name),
            mix_transformer.from_published,
            mix_transformer.STRIDES,
            f"those of SegFormer's authors ({name}.pth)",
        )
        for name in mix_transformer.NAMES
    },
}


class NoWeights(BadInput):
    """Weights that somebody must give, of a network whose pretrained ones nobody can fetch."""


def _create_own(name: str, weights: str, output_stride: int | None) -> nn.Module:
    own = _OWN[name]
    if output_stride not in (None, *own.strides):
        has = " or ".join(map(str, own.strides))
        raise BadInput(
            f"output_stride={output_stride}: '{name}' has {has} and no other; set output_stride={own.strides[0]}."
        )
    network = own.create(output_stride)
    if weights == "pretrained":
        raise NoWeights(
            f"'{name}' has no weights that could be fetched; give {own.weights} as a file, or take 'random'."
        )
    if weights != "random":
        state = read_weights(Path(weights))
        published = earlier_run(weights) is None and (weights.endswith(".params") or name != resnet38.NAME)
        _load(network, own.renamed(state) if published else state, weights)
    return network


def _create_flexible(name: str, options: dict) -> Any:
    """Transformers must accept any image size; convolutional networks do not know the option."""
    try:
        return timm.create_model(name, dynamic_img_size=True, **options)
    except TypeError:
        return timm.create_model(name, **options)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads the state dict in a `.safetensors` or `.pth` file, the arrays of an MXNet `.params` file, or what the
    backbone of an earlier run has learnt.

    Nothing but tensors is unpickled. What training with several GPUs put before the names is taken off.

    Raises:
        BadInput: there is no such file, or it cannot be read.
    """
    run = earlier_run(str(path))
    if run is not None:
        path = run / CLASSIFIER
    if not path.is_file():
        raise BadInput(f"{path}: there is no such weights file; give a .safetensors or .pth file, or 'pretrained'.")
    if path.suffix == ".params":
        return read_mxnet(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
            return _of_classifier(tensors) if run is not None else tensors
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path}: this file is damaged, or holds more than tensors, which may do anything when it is opened; save "
            "the network's state_dict() as .safetensors."
        ) from error
    except Exception as error:
        raise BadInput(f"{path}: these weights cannot be read ({brief(error)}); is the file whole?") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInput(f"{path}: weights are a table of names and tensors; save the network's state_dict().")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _of_classifier(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a classifier's weights is its backbone."""
    start = "backbone.network."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def _load(network: Any, state: dict[str, torch.Tensor], where: str) -> None:
    head = network.pretrained_cfg.get("classifier") or ()
    heads = (head,) if isinstance(head, str) else tuple(head)
    wanted = network.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or not any(k.startswith(h) for h in heads)}
    missing = sorted(k for k in wanted.keys() - state.keys() if not k.endswith("num_batches_tracked"))
    other = sorted(k for k in state if k in wanted and state[k].shape != wanted[k].shape)
    if missing or other:
        raise BadInput(
            f"{where}: the weights do not fit the backbone (first: '{(missing + other)[0]}' "
            f"{'is missing' if missing else 'has another shape'}); give weights of the same architecture."
        )
    network.load_state_dict(state, strict=False)


def _parameters_to_stride(network: Any, stride: int) -> list[nn.Parameter]:
    """Parameters of the stem and of every part whose features still have at most `stride`."""
    if hasattr(network, "early_parameters"):
        return network.early_parameters()
    # names of the modules, shallow to deep, at which timm reads features
    stages = network.feature_info[:-2] if len(network.feature_info) > 2 else []
    early = [info["module"] for info in stages if info["reduction"] <= stride]
    # a dilated stage has the stride of the one before it, and is not early
    first = next((number for number, info in enumerate(stages) if info["reduction"] == stride), len(stages))
    early = early[: first + 1]
    if not early:
        return []
    # timm's groups of parameters by depth, the stem first: number -> names
    members = timm.models.group_parameters(network, network.group_matcher(coarse=True))
    last = _deepest(network, early[-1], members)
    return [network.get_parameter(n) for number, names in members.items() if number <= last for n in names]


def _deepest(network: nn.Module, module: str, groups: dict[int, list[str]]) -> int:
    """The number of the deepest group of parameters of a module; of one without any, as an activation or a pool, of
    what stands before it. -1 where nothing does."""
    for name in reversed(_until(network, module)):
        found = [number for number, names in groups.items() if any(n.startswith(f"{name}.") for n in names)]
        if found:
            return max(found)
    return -1


def _until(network: nn.Module, module: str) -> list[str]:
    """The names of modules up to a module, in their order; nothing where the network has no such module."""
    names = [name for name, _ in network.named_modules() if name]
    return names[: names.index(module) + 1] if module in names else []


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _first_stride_is_odd(network: nn.Module) -> bool:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            stride, kernel = (v[0] if isinstance(v, tuple) else v for v in (module.stride, module.kernel_size))
            if stride > 1:
                return kernel % 2 == 1
    return True


@torch.no_grad()
def _probe(network: Any) -> tuple[int, int]:
    """Channels and stride of the feature grid, from one small image."""
    training = network.training
    side = 224
    image = torch.zeros(1, 3, side, side)
    grid = _as_grid(network, network.eval().forward_features(image), (side, side))
    network.train(training)
    return grid.shape[1], round(side / grid.shape[-1])


def _as_grid(network: Any, features: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Tokens `(B, n, D)` and channels-last grids `(B, h, w, D)` as `(B, D, h, w)`."""
    if features.ndim == 3:
        tokens = features[:, getattr(network, "num_prefix_tokens", 0) :]
        patch = network.patch_embed.patch_size
        # ONNX would take what `unflatten` gives for of one size
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, size[0] // patch[0], size[1] // patch[1])
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    return features
