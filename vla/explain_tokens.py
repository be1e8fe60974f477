"""What a policy says of its own tokens, so that what it attends to can be named and drawn.

Shape legend: B windows, T history frames, C context tokens of a window, K actions of a chunk, A action size,
N frames of one camera, L tokens that a camera's P patches are reduced to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Kind = Literal["language", "state", "picture", "summary", "image query", "action query"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token of the trunk."""

    kind: Kind
    """"picture" is one of the L tokens that a camera's patches are reduced to, "summary" the tower's own token for the
    whole picture."""
    step: int
    """Which history frame it belongs to, 0 the oldest; queries belong to none (-1)."""
    camera: str = ""
    number: int = 0
    """Which of its kind, in its camera and step."""


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """A policy's tokens and where it attends. Modules go by their names in `policy.named_modules()`."""

    context: tuple[Token, ...]
    """Of a whole window, in the order of the trunk."""
    queries: tuple[Token, ...]
    """Those behind the context when `raw_actions` asks; the last K are the actions'."""
    trunk: tuple[str, ...]
    """Attention modules, first layer first."""
    tower: str
    """The vision tower, which maps pixels to P patch tokens and a summary."""
    tower_layers: tuple[str, ...]
    """Its attention modules; its tokens are the summary, then the patches. Empty where they cannot be watched: then
    what enters the tower at a patch is taken to leave it there."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    reducer: str
    """The module that makes L tokens of P patches (its first argument)."""
    reducer_layers: tuple[str, ...]
    """Its attention modules, whose keys are the patches, then the L tokens. Empty: its tokens are sums of patches."""
    raw_actions: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(B, K, A) actions before clipping, differentiable, from `encode_frames` (B, T, F, D), `encode_text` (B, D) and
    the mask (B, T) of frames that exist."""

    @property
    def names(self) -> tuple[str, ...]:
        """All modules to watch."""
        return (*self.trunk, *self.tower_layers, *self.reducer_layers)


@runtime_checkable
class Explainable(Protocol):
    """A `TrainablePolicy` that can say what its tokens are."""

    def describe_tokens(self) -> TokenMap:
        """See `TokenMap`."""
        ...


def context_tokens(*, history: int, state: bool, cameras: tuple[str, ...], pictures: int) -> tuple[Token, ...]:
    """GR-1's order: per step language, state, then per camera `pictures` tokens and a summary."""
    tokens: list[Token] = []
    for step in range(history):
        tokens.append(Token(kind="language", step=step))
        if state:
            tokens.append(Token(kind="state", step=step))
        for camera in cameras:
            tokens += [Token(kind="picture", step=step, camera=camera, number=n) for n in range(pictures)]
            tokens.append(Token(kind="summary", step=step, camera=camera))
    return tuple(tokens)


def action_queries(chunk: int) -> tuple[Token, ...]:
    """One query per action of the chunk."""
    return tuple(Token(kind="action query", step=-1, number=n) for n in range(chunk))
