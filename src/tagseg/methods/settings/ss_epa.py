"""Settings of SS-EPA (see `tagseg.methods.ss_epa`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat

from tagseg.methods.settings.toco import ToCoSettings


class SSEPASettings(ToCoSettings):
    """Settings of SS-EPA: those of ToCo, and of the affinity along which maps are spread."""

    later: ClassVar[Mapping[str, Any]] = {**ToCoSettings.later, "fusion_labels": "auxiliary"}

    # what maps are spread along: nothing, the plain mean of all blocks, the weighted one, or that of the paper's letter
    affinity: Literal["none", "mean", "enhanced", "literal"] = "enhanced"
    fusion_weight: NonNegativeFloat = 1.0  # of the loss by which the weights of blocks are learnt ("enhanced")
    # what they learn from: whether patches attend to patches of their own label ("affinity"), and more than if labels
    # lay elsewhere ("content"), or whether the spread maps classify ("tags")
    fusion_signal: Literal["content", "affinity", "tags"] = "content"
    # whose maps label the patches for that: those of the auxiliary classifier, which fine-tuned tell patches apart
    # sooner, or those of the last block, which are better where the transformer stays as it is (early_stride)
    fusion_labels: Literal["auxiliary", "last"] = "auxiliary"


METHODS = {"ss-epa": SSEPASettings}
