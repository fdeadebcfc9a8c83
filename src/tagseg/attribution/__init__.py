"""Maps from any trained classifier: where is the evidence for a class?

    from tagseg.attribution import LayerCAM
    maps = LayerCAM(model, layers="stages")(images, classes)    # (B, K, H, W) in [0, 1]

Every method here is called as `(images (B, 3, H, W), classes (B, K)) -> (B, K, H, W)`; `layer_maps` gives the
unnormalised maps of each layer. `Hierarchy` asks on: which channels, and what are they made of?
"""

from tagseg.attribution.ablation_cam import AblationCAM
from tagseg.attribution.cam import CAM
from tagseg.attribution.excitation_backprop import ContrastiveExcitation
from tagseg.attribution.fusion import fuse, normalise
from tagseg.attribution.gradient import (
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientMaps,
    HiResCAM,
    LayerCAM,
    NormGrad,
    XGradCAM,
)
from tagseg.attribution.guided_backprop import GuidedBackprop
from tagseg.attribution.hierarchy import Hierarchy
from tagseg.attribution.rollout import AttentionRollout
from tagseg.attribution.score_cam import ScoreCAM

__all__ = [
    "CAM",
    "AblationCAM",
    "AttentionRollout",
    "ContrastiveExcitation",
    "EigenCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientMaps",
    "GuidedBackprop",
    "HiResCAM",
    "Hierarchy",
    "LayerCAM",
    "NormGrad",
    "ScoreCAM",
    "XGradCAM",
    "fuse",
    "normalise",
]
