"""The policy process: is it there, is it the right one, is it fast enough?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.watch import milliseconds


class PolicyWatch:
    """Of one policy process."""

    def __init__(self, settings: GateSettings):
        self._settings = settings
        self._alive_s = -math.inf
        self._lost: str = ""
        self._lost_s = 0.0
        self._latencies: list[float] = []
        self._identity: dict[str, str] | None = None

    def on_alive(self, now_s: float) -> None:
        """A sign of life."""
        self._alive_s = max(self._alive_s, now_s)

    def on_lost(self, now_s: float, why: str) -> None:
        """It is gone: what is known of it no longer holds."""
        if not self._lost:
            self._lost, self._lost_s = why or "it is gone", now_s
        self._latencies, self._identity = [], None

    @property
    def lost(self) -> bool:
        """Whether one has to be warmed up before the next arming."""
        return bool(self._lost)

    def reset(self) -> None:
        """Another process was warmed up: its signs of life count again."""
        self._lost = ""

    def on_warmup(self, latencies_s: Sequence[float]) -> None:
        """How long inferences of real shapes took [s], in order; the first are the cold ones."""
        self._latencies = [float(x) for x in latencies_s]

    def on_identity(self, identity: Mapping[str, str]) -> None:
        """What the policy says of itself."""
        self._identity = {str(k): str(v) for k, v in identity.items()}

    def identity_problems(self) -> list[str]:
        """One sentence per difference to what the robot is configured for."""
        found = self._identity or {}
        return [
            f"the policy's {name} is {found.get(name, 'not stated')}, this robot is configured for {expected}"
            for name, expected in self._settings.identity.items()
            if found.get(name) != expected
        ]

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        settings = self._settings
        if self._lost:
            late = now_s - self._lost_s > settings.policy_fault_s - settings.policy_hold_s
            return (Finding(Cause.POLICY_LOST, f"the policy was lost: {self._lost}", fault=late),)
        found: list[Finding] = []
        silence = now_s - self._alive_s
        if silence > settings.policy_hold_s:
            how_long = "was never heard of" if math.isinf(silence) else f"has been silent for {milliseconds(silence)}"
            message = f"the policy {how_long}, bound {milliseconds(settings.policy_hold_s)}"
            found.append(Finding(Cause.POLICY_LOST, message, fault=silence > settings.policy_fault_s))
        if self._identity is not None and settings.identity:
            found += [Finding(Cause.POLICY_IDENTITY, problem, fault=True) for problem in self.identity_problems()]
        return found

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        settings = self._settings
        if self._identity is None and settings.identity:
            yield Finding(Cause.POLICY_IDENTITY, "the policy has not said what it is")
        n = len(self._latencies)
        if n < settings.warmup_least:
            yield Finding(Cause.POLICY_SLOW, f"{n} warm-up inferences were made, {settings.warmup_least} are needed")
            return
        judged = self._latencies[settings.warmup_cold :][-settings.warmup_window :]
        p99 = float(np.quantile(judged, 0.99))
        bound = settings.warmup_fraction * settings.between_chunks_s
        if not p99 <= bound:
            message = f"the policy takes {milliseconds(p99)} (p99 of {len(judged)}), bound {milliseconds(bound)}"
            yield Finding(Cause.POLICY_SLOW, message)
