"""Relative frames: what the arm does, in the frame of its tool; where it is, seen from the window's first frame.

A policy that thinks "forward, as the wrist camera looks" needs not learn anew for every place on the table.

Shape legend: ... any leading dimensions, T history frames, S state size, A action size; E = 9 numbers of a pose
(position [m], then the first two columns of the rotation matrix, Zhou et al. 2019).
"""

from __future__ import annotations

import roma
import torch
from einops import rearrange
from torch import Tensor

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError


class ToolFrame:
    """Finds the tool's pose in the state, and the translation in the action.

    Raises:
        ConfigError: If the contract has none that can be turned: the state needs a position and an euler_xyz field,
            the action (if there is one) a relative translation, all in one frame.
    """

    def __init__(self, contract: Contract):
        positions, eulers, moves = {}, {}, {}
        for fields, start_of in ((contract.state, (positions, eulers)), (contract.action, (moves, None))):
            start = 0
            for field in fields:
                if field.rotation == "euler_xyz" and start_of[1] is not None:
                    start_of[1].setdefault(field.frame, start)
                elif field.size == 3 and field.unit.endswith("m") and (field.relative or fields is contract.state):
                    start_of[0].setdefault(field.frame, start)
                start += field.size
        shared = [frame for frame in positions if frame in eulers and (frame in moves or not contract.action)]
        if not shared:
            raise ConfigError(
                "relative frames need a position and an euler_xyz field in the state and a relative translation in the "
                f"action, in one frame; found state {[f.name for f in contract.state]} and action "
                f"{[f.name for f in contract.action]}: use policy.action_frame=base and policy.state_frame=base"
            )
        self._position, self._euler = positions[shared[0]], eulers[shared[0]]
        self._move = moves.get(shared[0], 0)
        self.state_positions = [*range(self._position, self._position + 3), *range(self._euler, self._euler + 3)]
        """Where in the state the tool's position and angles stand."""

    def rotation(self, state: Tensor) -> Tensor:
        """(..., S) to (..., 3, 3): what turns the tool's vectors into the base's."""
        return roma.euler_to_rotmat("xyz", state[..., self._euler : self._euler + 3].float())

    def to_tool(self, action: Tensor, rotation: Tensor) -> Tensor:
        """Translation of (..., A) actions from the base's frame into the tool's, whose rotation is (..., 3, 3)."""
        return self._turned(action, rotation.transpose(-1, -2))

    def to_base(self, action: Tensor, rotation: Tensor) -> Tensor:
        """The inverse of `to_tool`."""
        return self._turned(action, rotation)

    def _turned(self, action: Tensor, rotation: Tensor) -> Tensor:
        first, last = self._move, self._move + 3
        turned = torch.einsum("...ij,...j->...i", rotation.to(action.dtype), action[..., first:last])
        return torch.cat([action[..., :first], turned, action[..., last:]], dim=-1)

    def pose_from_first(self, state_BTS: Tensor) -> Tensor:
        """(B, T, S) to (B, T, 9): each frame's tool pose in the tool frame of the first frame."""
        position = state_BTS[..., self._position : self._position + 3].float()
        rotation = self.rotation(state_BTS)
        back = rotation[:, :1].transpose(-1, -2)
        moved = torch.einsum("btij,btj->bti", back.expand_as(rotation), position - position[:, :1])
        turned = back @ rotation
        return torch.cat([moved, rearrange(turned[..., :2], "b t i j -> b t (j i)")], dim=-1)
