"""Pseudo-labels that admit what they do not know, from class maps and two background scores: AFA (Ru et al., CVPR 2022,
section 3.4), ToCo (CVPR 2023, section 3.4), and what came after them.

Above the higher score a pixel is an object, below the lower one it is background, between them it is ignored; PAR is
applied under either score, at half the size.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tagseg.grid import PIXELS, Grid
from tagseg.labels import IGNORE
from tagseg.masks.par import compiled_refinement, pixel_adaptive_refinement


@torch.no_grad()
def refined_labels(
    images: torch.Tensor,
    class_maps: torch.Tensor,
    tags: torch.Tensor,
    *,
    high: float | torch.Tensor,
    low: float,
    boxes: torch.Tensor | None = None,
    affinity: torch.Tensor | None = None,
    iterations: int = 10,
    cells: Grid = PIXELS,
) -> torch.Tensor:
    """Returns labels of every pixel from class maps and two background scores, refined by PAR.

    Args:
        images: `(B, 3, H, W)` in their own colours, any scale.
        class_maps: `(B, C, H, W)` in [0, 1].
        tags: `(B, C)` multi-hot.
        high, low: background scores; `high` may be one for each image, `(B,)`.
        boxes: `(B, 4)` rows (y0, y1, x0, x1) of what is photograph and not padding.
        affinity: `(B, h, w, h, w)`, along which the probabilities go on their grid before PAR: that at `[..., y, x]` is
            the weighted sum over `[y', x', y, x]` (AFA).
        iterations: of PAR.
        cells: how the patches of the affinity lie.

    Returns:
        `(B, H, W)` int64: 0 background, class c at c + 1, 255 ignore. A pixel has a class if it wins over the high
        background score, is background if the low one wins over all classes, and else, or off the box, is ignored.
    """
    height, width = images.shape[-2:]
    half = (max(1, height // 2), max(1, width // 2))
    small = F.interpolate(images.float(), size=half, mode="bilinear", align_corners=False)
    labels = torch.full((len(images), height, width), IGNORE, dtype=torch.long, device=images.device)
    for index, (maps, present) in enumerate(zip(class_maps, tags.bool(), strict=True)):
        names = torch.cat([torch.zeros(1, dtype=torch.long, device=tags.device), present.nonzero()[:, 0] + 1])
        links = None if affinity is None else affinity[index]
        above = float(high[index]) if isinstance(high, torch.Tensor) else high
        winners = _strongest(small[index], maps[present], (above, low), (height, width), iterations, links, cells)
        sure, possible = (names[winner] for winner in winners)
        found = torch.where((sure == 0) & (possible > 0), IGNORE, sure)
        y0, y1, x0, x1 = (0, height, 0, width) if boxes is None else (int(edge) for edge in boxes[index])
        labels[index, y0:y1, x0:x1] = found[y0:y1, x0:x1]
    return labels


def _strongest(
    image: torch.Tensor,
    maps: torch.Tensor,
    backgrounds: tuple[float, float],
    size: tuple[int, int],
    iterations: int,
    affinity: torch.Tensor | None,
    cells: Grid,
) -> list[torch.Tensor]:
    """Who wins each pixel after PAR, for both background scores; PAR's weights are those of the image alone, so that
    both go through it together."""
    if not len(maps):
        return [torch.zeros(size, dtype=torch.long, device=image.device)] * 2
    grid = image.shape[-2:] if affinity is None else affinity.shape[:2]
    place = PIXELS if affinity is None else cells
    small = place.resize(maps[None].float(), grid)[0]
    # K + 1 channels under the high score, and K + 1 under the low one behind them
    scores = torch.cat([torch.cat([torch.full_like(small[:1], score), small]).softmax(dim=0) for score in backgrounds])
    if affinity is not None:
        # one step along the affinity, on the grid of patches that it is of
        scores = torch.einsum("kyx,yxvu->kvu", scores, affinity.to(scores.dtype)).float()
        scores = cells.resize(scores[None], image.shape[-2:])[0]
    if image.is_cpu:
        pixels, values = image.permute(1, 2, 0).contiguous().numpy(), scores.numpy()
        refined = torch.from_numpy(compiled_refinement(pixels, values, False, iterations, None))[None]
    else:
        refined = pixel_adaptive_refinement(image[None], scores[None], iterations=iterations)
    refined = F.interpolate(refined, size=size, mode="bilinear", align_corners=False)[0]
    return [part.max(dim=0).indices for part in refined.chunk(2)]  # argmax is many times slower on a CPU
