"""Holding a stranger's network still while it is looked at, and putting everything back.

One thread at a time has a network. Modes and flags are put back each on its own, so that one that cannot be does not
keep the others from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils import checkpoint

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()  # of what all threads share
_held = {"count": 0}  # threads that want compiled networks to run eagerly
_stance: list[Any] = []
_plain = threading.local()  # whether this thread recomputes nothing


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Holds a network in eval mode without parameter gradients, eagerly, in its own precision, outside inference mode.

    Other threads wait. Everything is put back at the end, also after an exception.
    """
    with _guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock, ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            module.training = False
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.is_inference():
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        _without_inference_tensors(model, stack)
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        for context in (torch.inference_mode(False), torch.enable_grad(), _eagerly(), _recomputing_nothing()):
            stack.enter_context(context)
        yield


def _without_inference_tensors(model: nn.Module, stack: ExitStack) -> None:
    """Weights that were made under inference mode cannot be part of a graph; copies stand in for them."""
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, value in table.items():
                if value is not None and value.is_inference():
                    with torch.inference_mode(False):
                        copy = value.clone()
                    stack.callback(table.__setitem__, name, value)
                    table[name] = nn.Parameter(copy, False) if isinstance(value, nn.Parameter) else copy


@contextmanager
def _eagerly() -> Iterator[None]:
    """Compiled networks run as they were written. All threads share this; the last one to leave puts it back."""
    with _guard:
        _held["count"] += 1
        if _held["count"] == 1:
            _stance[:] = [torch.compiler.set_stance("force_eager")]
            _stance[0].__enter__()
    try:
        yield
    finally:
        with _guard:
            _held["count"] -= 1
            if _held["count"] == 0:
                _stance.pop().__exit__(None, None, None)


@contextmanager
def _recomputing_nothing() -> Iterator[None]:
    """Checkpointed blocks keep what they would compute again: the hooks of a pass are gone by then."""
    _install()
    before, _plain.on = getattr(_plain, "on", False), True
    try:
        yield
    finally:
        _plain.on = before


class _Direct:
    """In place of the function that computes again: the block itself."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *inputs: Any) -> Any:
        """Returns what the block gives."""
        return function(*inputs)


def _chosen(generator: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
    def chosen(*arguments: Any, **options: Any) -> Iterator[None]:
        if getattr(_plain, "on", False):
            yield
        else:
            yield from generator(*arguments, **options)

    return chosen


_GENERATORS = (  # what surrounds a block that is computed again, in torch 2.6 and newer
    "_checkpoint_without_reentrant_generator",
    "_checkpoint_without_reentrant_generator_impl",
)


def _install() -> None:
    """Gives the two ways to compute again a third, for threads that are at work here; others have them as they were."""
    if getattr(checkpoint, "_tagseg", False):
        return
    with _guard:
        if getattr(checkpoint, "_tagseg", False):
            return
        reentrant = checkpoint.CheckpointFunction

        class Chosen(reentrant):  # type: ignore[misc, valid-type]
            @staticmethod
            def apply(*inputs: Any) -> Any:
                """Returns what the block gives, computed again or kept."""
                return _Direct.apply(*inputs) if getattr(_plain, "on", False) else reentrant.apply(*inputs)

        checkpoint.CheckpointFunction = Chosen  # type: ignore[misc]
        for name in _GENERATORS:
            if hasattr(checkpoint, name):
                setattr(checkpoint, name, _chosen(getattr(checkpoint, name)))
        checkpoint._tagseg = True  # type: ignore[attr-defined]
