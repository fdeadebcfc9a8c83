"""Small networks of the kinds that attributions meet."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Three stages as in VGG, then pooling and linear layers; the network of the golden file."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace)]
            return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))

        self.stage1, self.stage2, self.stage3 = stage(3, 8, True), stage(8, 12, True), stage(12, 16, False)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Sequential(nn.Linear(64, 24), nn.ReLU(inplace), nn.Linear(24, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stage3(self.stage2(self.stage1(images)))).flatten(1))


class Pooled(nn.Module):
    """Convolutions, global average pooling, one linear layer; rectified as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(10, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = F.relu(self.second(F.relu(self.norm(self.first(images)))))
        return self.linear(self.drop(values.mean(dim=(2, 3))))


class ClassConvolution(nn.Module):
    """A class convolution and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.classes = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.trunk(images)).mean(dim=(2, 3))


class Wrapped(nn.Module):
    """Returns the scores inside something else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = Plain(), kind

    def forward(self, images: torch.Tensor) -> Any:
        scores = self.inner(images)
        return {"logits": scores, "other": 1} if self.kind == "dict" else (scores, 1)


class Side(Plain):
    """Has a branch that the scores do not depend on, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.idle = nn.Conv2d(16, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stage3(self.stage2(self.stage1(images)))
        self.branch(features)
        return self.fc(self.pool(features).flatten(1))
