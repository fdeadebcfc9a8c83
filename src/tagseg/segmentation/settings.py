"""Settings of the segmentation network and of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from tagseg.errors import nearest
from tagseg.masks.crf_parameters import CRFS
from tagseg.networks.settings import DecoderSettings
from tagseg.settings import Count, EarlyStride, Norms, OutputStride, ScaleRange, Settings, SidePixels

HeadName = Literal["aspp", "largefov", "tokens", "segformer", "segmenter"]
NO_CRF = "none"


def _known_crf(name: str) -> str:
    known = [NO_CRF, *CRFS]
    if name not in known:
        raise ValueError(f"there is no such CRF{nearest(name, known) or '.'} Known: {', '.join(known)}")
    return name


class PredictSettings(Settings):
    """Settings of the test protocol: how a trained network looks at a photograph whose mask is wanted.

    A published protocol looks at several sizes and at mirror images, and sharpens with a CRF.
    """

    # long side of the photograph at scale 1, pixels; "trained", that of the training; "own", the photograph's
    side: SidePixels | Literal["trained", "own"] = "trained"
    scales: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    flip: bool = False  # look at the mirrored photograph too
    # what becomes of several sizes: "mean", of their probabilities; "max", the largest logits, those of a photograph
    # and its mirror image averaged (AFA's published code); "max-sum", these added (ToCo's), which a CRF believes more
    fuse: Literal["mean", "max", "max-sum"] = "mean"
    crf: Annotated[str, AfterValidator(_known_crf)] = NO_CRF  # published parameters, by name

    @property
    def plain(self) -> bool:
        """Returns whether the photograph is looked at once, as in the training, and nothing follows."""
        return self == PredictSettings()


class BecoSettings(Settings):
    """Settings of two networks that teach each other where masks are doubted (BECO, Rong et al., CVPR 2023)."""

    warmup: float = Field(default=0.02, ge=0, le=1)  # share of the steps in which what is mixed keeps its masks
    mixing: float = Field(default=0.5, ge=0, le=1)  # how often half of the classes of another photograph are pasted in
    sure: float = Field(default=0.95, ge=0, le=1)  # probability above which what both say of a mixed pixel is its label
    border_weight: NonNegativeFloat = 0.2  # how much more pixels weigh along the border of what was pasted


class SegmentSettings(Settings):
    """Settings of the segmentation network and its training; the recipes hold the published ones."""

    later: ClassVar[Mapping[str, Any]] = {"early_stride": 4}

    # "masks": trained on the pseudo-masks; "method": the method's own, where it learns to segment while it learns from
    # tags (ToCo and its heirs), and what follows does not matter; "auto": the method's own if it has one
    source: Literal["auto", "masks", "method"] = "auto"
    # "deeplab": a network that is trained as a whole; "beco": two of them that teach each other where masks are doubted
    # (255; see masks.keep); "decoder": a small one on the features of the frozen encoder, with settings of its own, and
    # what follows them does not matter
    network: Literal["deeplab", "beco", "decoder"] = "deeplab"
    decoder: DecoderSettings = DecoderSettings()
    beco: BecoSettings = BecoSettings()
    backbone: str | None = None  # None: that of the classifier
    weights: str | None = None  # None: those the classifier began with, or "pretrained" for another backbone
    head: HeadName = "aspp"
    start: Literal["classifier", "weights"] = "classifier"  # backbone from the tag-trained network, or as it came
    output_stride: OutputStride = "auto"
    norms: Norms = "batch"  # what pretrained batch normalisations normalise by: the batch, or what they know
    # up to the end of the first stage with this stride pretrained layers stay; 0: none; "all": the whole backbone
    early_stride: EarlyStride = 4
    epochs: Count = 16
    batch_size: Count = 16
    side: SidePixels = 321  # of the square training window; photographs are predicted at this long side times 1.25
    scales: ScaleRange = (0.8, 1.6)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    bias_factor: PositiveFloat = 1.0  # how much faster biases learn than weights; 2 as published (Caffe's)
    weight_decay: NonNegativeFloat = 0.01
    # pixels along a place where the loss is taken; published codes have 8, the output stride, which loses borders, and
    # full size costs more than the network on a CPU
    loss_stride: Literal[1, 2, 4, 8] = 4
    # whether windows are seen at 0.75 and 0.5 of their size too, and the losses of the three and of their largest
    # logits are added (DeepLab's "MSC")
    multi_scale: bool = False
    # mean loss of a batch at and below which pixels count no more than the mean of the batch there, so that what is
    # wrong in a mask is not learnt by heart (WeakTr's "online retraining"); null: they always count
    clip_from: PositiveFloat | None = None
    clip_side: Count = 120  # of the squares that such a mean is of, pixels

    @property
    def networks(self) -> int:
        """Returns how many networks learn together; each sees as many photographs beside each other."""
        return 2 if self.network == "beco" else 1

    @model_validator(mode="after")
    def _of_two(self) -> SegmentSettings:
        if self.network == "beco" and self.multi_scale:
            raise ValueError("network=beco sees every window at one size; set multi_scale=false")
        if self.network == "beco" and self.clip_from is not None:
            raise ValueError("network=beco doubts pixels by its masks; set clip_from=null")
        if self.network == "beco" and self.batch_size % 2:
            raise ValueError(f"network=beco mixes photographs in pairs; batch_size {self.batch_size} must be even")
        return self
