"""The permutohedral lattice in torch, for GPUs: the same lattice as `permutohedral`, built by sorting."""

from __future__ import annotations

import numpy as np
import torch

from tagseg.masks.permutohedral import check_span, scale_factors


class TorchLattice:
    """A lattice over points on any device.

    Args:
        features: `(N, d)` float32 tensor of positions divided by their standard deviations.

    Memory: `20 (d + 1)` bytes a point while it is built, 12 of them kept.
    """

    def __init__(self, features: torch.Tensor) -> None:
        size, self.dimensions = features.shape
        d, kinds, device = self.dimensions, self.dimensions + 1, features.device
        span = features.abs().amax(dim=0, keepdim=True).cpu().numpy() if size else np.zeros((1, d), np.float32)
        bits = check_span(span, scale_factors(d))
        scaled = features.float() * torch.from_numpy(scale_factors(d)).to(device)
        # coordinate i is the sum of the later features minus i times the one before it (section 3.1)
        after = torch.cat([scaled.flip(1).cumsum(1).flip(1), scaled.new_zeros(size, 1)], dim=1)
        elevated = after - torch.cat([scaled.new_zeros(size, 1), scaled * torch.arange(1, kinds, device=device)], dim=1)
        origin = (elevated / kinds + 0.5).floor()
        left = elevated - origin * kinds
        order = left.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(kinds, device=device).expand(size, kinds))
        rank = rank + origin.sum(dim=1, keepdim=True).long()
        step = (rank < 0).long() - (rank > d).long()
        rank, origin, left = rank + kinds * step, origin.long() + step, left - kinds * step
        sorted_left = torch.empty_like(left).scatter_(1, rank, left / kinds)  # by rank, descending
        weights = torch.empty_like(left)
        weights[:, 1:] = (sorted_left[:, :-1] - sorted_left[:, 1:]).flip(1)
        weights[:, 0] = 1 - sorted_left[:, 0] + sorted_left[:, -1]
        shifts = torch.tensor([3 + bits * (d - 1 - i) for i in range(d)], device=device)
        corner = torch.arange(kinds, device=device).reshape(1, -1, 1)
        coordinates = origin[:, None, :d] + 2 ** (bits - 1) - (rank[:, None, :d] > d - corner).long()
        keys = (coordinates << shifts).sum(dim=-1) | corner[..., 0]
        vertices, corners = torch.unique(keys, return_inverse=True)
        self.corners, self.weights, self.vertices = corners, weights, len(vertices)
        ones = sum(1 << int(s) for s in shifts)
        down = torch.where(vertices & 7 > 0, vertices - 1, vertices - ones + d)
        up = torch.where(vertices & 7 < d, vertices + 1, vertices + ones - d)
        self.neighbours = []
        for direction in range(kinds):
            unit = 1 << int(shifts[direction]) if direction < d else 0
            self.neighbours.append((self._find(vertices, down + unit), self._find(vertices, up - unit)))

    def _find(self, vertices: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        place = torch.searchsorted(vertices, wanted).clamp(max=self.vertices - 1)
        return torch.where(vertices[place] == wanted, place, self.vertices)

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """Filters values: `sum_j exp(-|f_i - f_j|^2 / 2) v_j` for every i, the point itself included.

        `(N, C) -> (N, C)`.
        """
        channels = values.shape[1]
        grid = values.new_zeros(self.vertices + 1, channels)
        for corner, weight in zip(self.corners.unbind(1), self.weights.unbind(1), strict=True):
            grid.index_add_(0, corner, weight[:, None] * values)
        for one, other in self.neighbours:
            grid[:-1] = grid[:-1] + 0.5 * (grid[one] + grid[other])
        result = torch.zeros_like(values)
        for corner, weight in zip(self.corners.unbind(1), self.weights.unbind(1), strict=True):
            result.addcmul_(grid[corner], weight[:, None])
        return result / (1 + 2.0**-self.dimensions)

    def normalise(self) -> None:
        """Makes the filter symmetrically normalised from now on.

        It then has `k_ij / sqrt(n_i n_j)` with `n_i = sum_j k_ij`.
        """
        self.weights = self.weights * (self.filter(self.weights.new_ones(len(self.weights), 1)) + 1e-20).rsqrt()
