"""What happens without a channel: the slow truth that contributions are measured against.

The network is gone through once for an image up to a layer, from where changed copies of what the layer gave go on
together. Nothing before the layer is computed again, nothing behind the place that is asked for is computed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from tagseg.attribution.calling import Caller, Score
from tagseg.attribution.capture import hooked
from tagseg.attribution.gap import Decision, Recording, clip_call
from tagseg.attribution.holding import undisturbed
from tagseg.errors import BadInput

_TOGETHER = 64  # changed copies in one batch


def drops(
    model: nn.Module,
    recording: Recording,
    image: torch.Tensor,
    decisions: Sequence[Decision],
    level: int,
    *,
    means: torch.Tensor | None = None,
    score: Score | None = None,
) -> torch.Tensor:
    """Returns how much each decision falls when one channel of an earlier layer is replaced by its mean activation.

    Args:
        model: the network, unwrapped.
        recording: of the image alone; it tells the layers.
        image: `(1, 3, H, W)`.
        decisions: all of one level.
        level: of the channels that are replaced.
        means: `(D,)`, the mean of every channel over a data set; None for the mean over this image's positions.
        score: from what the network returns to `(B, C)`.

    Returns:
        `(len(decisions), D)`.
    """
    values = recording.features(level)[0]
    fill = values.mean(dim=(1, 2)) if means is None else means.to(values)
    channels = len(values)
    above = decisions[0].level
    read = above if above < len(recording.layers) else None

    def asked(grid: torch.Tensor) -> torch.Tensor:
        if read is None:
            return torch.stack([grid[:, d.channel] for d in decisions])
        return torch.stack([grid[:, d.channel, d.y, d.x] for d in decisions])

    def nothing(_: torch.Tensor) -> None:
        return None

    whole = asked(rerun(model, recording, image, level, 1, nothing, read, score))
    rows = []
    for start in range(0, channels, _TOGETHER):
        some = torch.arange(start, min(start + _TOGETHER, channels), device=values.device)

        def replace(grid: torch.Tensor, some: torch.Tensor = some) -> None:
            grid[torch.arange(len(some), device=grid.device), some] = fill[some][:, None, None]

        rows.append(whole - asked(rerun(model, recording, image, level, len(some), replace, read, score)))
    return torch.cat(rows, dim=1).float()


def rerun(
    model: nn.Module,
    recording: Recording,
    image: torch.Tensor,
    level: int,
    copies: int,
    change: Callable[[torch.Tensor], None],
    read: int | None = None,
    score: Score | None = None,
) -> torch.Tensor:
    """Continues from a layer with changed copies of what it gives for one image.

    Args:
        change: gets the copies `(copies, D, h, w)` and writes into them.
        read: the layer at which to stop; what it gives (before its clip, if it has one) comes back as
            `(copies, D', h', w')`. None for the scores `(copies, C)`.
    """
    return rerun_all(model, recording, image, copies, {level: change}, read, score)


@torch.no_grad()
def rerun_all(
    model: nn.Module,
    recording: Recording,
    image: torch.Tensor,
    copies: int,
    changes: dict[int, Callable[[torch.Tensor], None]],
    read: int | None = None,
    score: Score | None = None,
) -> torch.Tensor:
    """Continues from the first of several layers with changed copies of what it gives for one image.

    The first layer makes the copies, those behind it change them again.
    """
    found: list[torch.Tensor] = []
    first = min(changes)
    clip = None if read is None else recording.clips.get(read)
    watched = [*changes, *([] if read is None or clip is not None else [read])]
    seen = [0]  # calls of the clip so far

    def at(place: int, output: torch.Tensor) -> torch.Tensor:
        level = watched[place]
        if level not in changes:
            enough(level, output)
        output = output.expand(copies, *output.shape[1:]).clone() if level == first else output.clone()
        changes[level](recording.layers[level].grid(output, recording.size))
        return output

    def enough(level: int, values: torch.Tensor) -> None:
        found.append(recording.layers[level].grid(values.clone(), recording.size))
        raise _Enough

    def before(module: nn.Module, inputs: tuple) -> None:
        assert read is not None
        seen[0] += 1
        if seen[0] == clip_call(recording.layers[read], module):
            enough(read, inputs[0])

    with undisturbed(model), torch.no_grad(), hooked([recording.layers[level] for level in watched], at):
        handle = None if clip is None else clip.register_forward_pre_hook(before)
        try:
            output = model(image)
        except _Enough:
            return found[0]
        except RuntimeError as error:
            raise BadInput(
                f"layer '{recording.layers[first].name}' cannot go on with several versions of what it gave "
                f"({str(error).splitlines()[0]}); choose layers between blocks."
            ) from error
        finally:
            if handle is not None:
                handle.remove()
    return Caller(model, score).scores(output, copies)


class _Enough(Exception):
    """What was asked for is there; the rest of the network is not needed."""
