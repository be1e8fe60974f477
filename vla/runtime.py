"""Streaming inference: a trained policy as an `Actor`, for many robots or environments at once.

Each frame is encoded at most once and its tokens are kept; a frame that no plan looks at is never encoded; a sentence
is encoded once. The numbers are those of `TrainablePolicy.plan`, the full forward pass, up to rounding. What else makes
it fast, and what was measured: docs/inference.md.

Shape legend: N slots of one call, T history frames, F tokens of a frame, D width, S state size.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.policy import Observation, Plan
from foreact.vla.runtime_acting import PlansOnDevice, find_precision
from foreact.vla.runtime_device import Recorded, Uploader, find_device
from foreact.vla.runtime_stages import stage
from foreact.vla.trainable import TrainablePolicy

__all__ = ["BadObservation", "StreamingActor", "find_device"]

_SENTENCES_KEPT = 1024


class BadObservation(ForeActError):
    """An observation is not what the policy's contract describes."""


@dataclass
class _Frame:
    """One control step of one slot."""

    images: dict[str, np.ndarray]
    state_S: np.ndarray
    tokens_FD: Tensor | None = None


@dataclass
class _Slot:
    """What is remembered of one robot or environment."""

    instruction: str
    frames: deque[_Frame] = field(default_factory=deque)


class StreamingActor:
    """A policy that acts; implements `foreact.vla.policy.Actor`.

    Args:
        policy: From `foreact.vla.checkpoint.load_policy`.
        execute_steps: Actions of a plan executed before the next; by default what the policy's config says.
        device: "cpu", "cuda", "cuda:1", ...
        batch_size: Every pass of the network has so many rows, padded where fewer are asked for. Rounding depends on
            the size of a batch, so this makes a slot's numbers independent of what else runs beside it.
            By default passes are as large as what is asked for.
        precision: "float32", "bfloat16" or "float16": what most of the network is computed in.
        graphs: Replay CUDA graphs, one per number of rows (rounded up to a power of two, unless `batch_size` says how
            many). Its first plan of each kind takes seconds. On a CPU the same static buffers are used without graphs.
        compiled: Through `torch.compile`; the first plan of each shape then takes a minute.

    Raises:
        ConfigError: If the device is not there, the precision unknown, or `execute_steps` not 1 to the policy's chunk.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        execute_steps: int | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        *,
        precision: str = "float32",
        graphs: bool = False,
        compiled: bool = False,
    ):
        steps = policy.config.execute_steps if execute_steps is None else execute_steps
        if not 1 <= steps <= policy.config.chunk:
            raise ConfigError(f"execute_steps must be 1 to {policy.config.chunk} (the policy's chunk), found {steps}")
        if not policy.contract.action:
            raise ConfigError("this policy was trained on video alone and has no actions; fine-tune it first")
        self.device = find_device(device)
        self.policy = policy.to(self.device).eval()
        self.acting = policy.for_acting(find_precision(precision))
        self.contract = policy.contract
        self.execute_steps = steps
        self.looks_back = tuple(policy.config.history_stride * k for k in range(1, policy.config.history))
        self._batch_size = batch_size
        self._span = (policy.config.history - 1) * policy.config.history_stride + 1
        self._slots: dict[int, _Slot] = {}
        self._sentences: OrderedDict[str, Tensor] = OrderedDict()

        self._upload = Uploader(self.device, staged=True if graphs else None)
        self._static = graphs
        self._encode_rows, self._plan_rows = self._encode_tensors, self._plan_tensors
        if compiled:
            self._encode_rows = torch.compile(self._encode_rows, dynamic=False)
            self._plan_rows = torch.compile(self._plan_rows, dynamic=False)
        if graphs:
            record = self.device.type == "cuda"
            self._encode_rows = Recorded(self._encode_rows, graphs=record)
            self._plan_rows = Recorded(self._plan_rows, graphs=record)

    def reset(self, slots) -> None:
        """Forget the history of these slots."""
        for slot in slots:
            self._slots.pop(int(slot), None)

    def observe(self, observation: Observation) -> None:
        """Remember a control step; nothing is computed. Without images it is one that no plan will look at."""
        self._check(observation, blind=not observation.images)
        cameras = {c.name for c in self.contract.cameras}
        for row, slot in enumerate(observation.slots):
            instruction = observation.instruction[row]
            memory = self._slots.get(int(slot))
            # Training windows never look across a change of instruction; nor does the actor.
            if memory is None or memory.instruction != instruction:
                memory = self._slots[int(slot)] = _Slot(instruction)
            images = {name: np.array(observation.images[name][row]) for name in observation.images if name in cameras}
            memory.frames.append(_Frame(images, np.array(observation.state[row], np.float32)))
            while len(memory.frames) > self._span:
                memory.frames.popleft()

    @torch.no_grad()
    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Remember a control step and plan from it.

        Raises:
            BadObservation: If images or state are not as the contract says, or a step that is looked back at came
                without images.
        """
        self._check(observation)
        self.observe(observation)
        stride = self.policy.config.history_stride
        history = [list(self._slots[int(slot)].frames)[::-1][::stride][::-1] for slot in observation.slots]
        try:
            self._encode([frame for frames in history for frame in frames if frame.tokens_FD is None])
        except Exception:  # whoever asks again shows this step again
            for slot in observation.slots:
                self._slots[int(slot)].frames.pop()
            raise
        with stage("language"):
            language = self._language(observation.instruction)
        plans = [
            self._plan([history[row] for row in rows], language[list(rows)], foresight)
            for rows in self._batches(len(history))
        ]
        return _joined(plans, len(history))

    def _plan(self, history: list[list[_Frame]], language: Tensor, foresight: bool) -> Plan:
        T = self._length(history)
        nothing = torch.zeros_like(_tokens(history[0][-1]))
        rows = [[_tokens(frame) for frame in frames] + [nothing] * (T - len(frames)) for frames in history]
        frames_NTFD = torch.stack([tokens for row in rows for tokens in row]).unflatten(0, (-1, T))
        lengths = np.array([len(frames) for frames in history])
        with stage("upload"):
            mask_NT = self._upload("mask", list(np.arange(T) < lengths[:, None]))
            current = self._upload_images("current", [frames[-1] for frames in history]) if foresight else None
        if not isinstance(self.acting, PlansOnDevice):
            return self.acting.plan_from(frames_NTFD, language, mask_NT, current)
        actions, *pictures = self._plan_rows(frames_NTFD, language, mask_NT, *(current or {}).values())
        with stage("download"):
            painted = {name: picture.cpu().numpy() for name, picture in zip(current or {}, pictures, strict=True)}
            return Plan(
                actions=actions.cpu().numpy(),
                foresight=painted if foresight else None,
                foresight_steps=self.acting.foresight_steps if foresight else 0,
            )

    def _length(self, history: list[list[_Frame]]) -> int:
        """T of the windows. Shorter ones are quicker where that is understood, but round differently; static buffers
        and rows that must not depend on each other want one length."""
        if self._static or self._batch_size not in (None, 1) or not isinstance(self.acting, PlansOnDevice):
            return self.policy.config.history
        return max(map(len, history))

    def _plan_tensors(
        self, frames_NTFD: Tensor, language_ND: Tensor, mask_NT: Tensor, *current: Tensor
    ) -> tuple[Tensor, ...]:
        assert isinstance(self.acting, PlansOnDevice)
        names = [camera.name for camera in self.contract.cameras]
        images = dict(zip(names, current, strict=True)) if current else None
        actions, pictures = self.acting.plan_tensors(frames_NTFD, language_ND, mask_NT, images)
        return actions, *(pictures[name] for name in names if current)

    def _batches(self, n: int) -> list[list[int]]:
        """Rows 0..n-1 in passes of the network; the last row fills up what is left of the last pass."""
        size = self._batch_size or (1 << (n - 1).bit_length() if self._static else n)
        return [[min(start + i, n - 1) for i in range(size)] for start in range(0, n, size)]

    def _encode(self, new: list[_Frame]) -> None:
        if any(len(frame.images) < len(self.contract.cameras) for frame in new):
            raise BadObservation(
                f"a step that is looked back at came without images; this policy looks back {self.looks_back} steps"
            )
        for rows in self._batches(len(new)) if new else ():
            frames = [new[row] for row in rows]
            with stage("upload"):
                images = self._upload_images("image", frames)
                state_NS = self._upload("state", [frame.state_S for frame in frames])
            (tokens_NFD,) = self._encode_rows(state_NS, *images.values())
            for frame, tokens_FD in zip(frames, tokens_NFD, strict=True):
                frame.tokens_FD = tokens_FD

    def _encode_tensors(self, state_NS: Tensor, *images: Tensor) -> tuple[Tensor, ...]:
        known_N = torch.ones(len(state_NS), dtype=torch.bool, device=state_NS.device)
        named = {camera.name: image for camera, image in zip(self.contract.cameras, images, strict=True)}
        return (self.acting.encode_frames(named, state_NS, known_N),)

    def _upload_images(self, kind: str, frames: list[_Frame]) -> dict[str, Tensor]:
        return {
            camera.name: self._upload(f"{kind} {camera.name}", [frame.images[camera.name] for frame in frames])
            for camera in self.contract.cameras
        }

    def _language(self, sentences) -> Tensor:
        new = sorted({sentence for sentence in sentences if sentence not in self._sentences})
        for sentence in new:
            # One at a time: a sentence's vector must not depend on what else is asked for (padding).
            self._sentences[sentence] = self.acting.encode_text([sentence])[0]
        language = torch.stack([self._sentences[sentence] for sentence in sentences])
        while len(self._sentences) > _SENTENCES_KEPT:
            self._sentences.popitem(last=False)
        return language

    def _check(self, observation: Observation, blind: bool = False) -> None:
        n = len(observation.slots)
        if len(set(map(int, observation.slots))) != n or len(observation.instruction) != n:
            found = f"slots {list(observation.slots)} and {len(observation.instruction)} instructions"
            raise BadObservation(f"expected {n} different slots, one instruction each; found {found}")
        for camera in () if blind else self.contract.cameras:
            found = observation.images.get(camera.name)
            expected = (n, camera.height, camera.width, 3)
            if found is None or found.shape != expected or found.dtype != np.uint8:
                what = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise BadObservation(f"camera {camera.name!r}: expected uint8 {expected}, found {what}")
        expected = (n, self.contract.state_size)
        if np.shape(observation.state) != expected or not np.isfinite(observation.state).all():
            raise BadObservation(
                f"state: expected {expected} finite numbers, found shape {np.shape(observation.state)}"
            )


def _tokens(frame: _Frame) -> Tensor:
    assert frame.tokens_FD is not None
    return frame.tokens_FD


def _joined(plans: list[Plan], n: int) -> Plan:
    """One plan of the first `n` rows."""
    if len(plans) == 1 and len(plans[0].actions) == n:
        return plans[0]
    foresight = None
    if plans[0].foresight is not None:
        foresight = {
            camera: np.concatenate([plan.foresight[camera] for plan in plans if plan.foresight is not None])[:n]
            for camera in plans[0].foresight
        }
    actions = np.concatenate([plan.actions for plan in plans])[:n]
    return Plan(actions=actions, foresight=foresight, foresight_steps=plans[0].foresight_steps)
