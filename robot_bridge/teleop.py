"""A person commands the arm: what a keyboard or a gamepad says becomes the contract's actions, and a plan.

A `TeleopActor` is an `Actor`, so a person goes the way of a policy: inverse kinematics, scheduler, gate. Only the first
rows of a plan move; the others are zero, so that the arm stops by itself when no further plan comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor, Observation, Plan

DEAD_MAN_S = 0.2
"""Without a sign of life for so long, motion is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """What a person wants now: fractions of the fastest motion that the contract can say."""

    linear: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Along x, y, z of the action's frame, each in [-1, 1]."""
    angular: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About x, y, z, each in [-1, 1]."""
    alive: bool = False
    """Somebody is at the controls now."""


STILL = Motion()


class TeleopDevice(Protocol):
    """A keyboard, a gamepad, ..."""

    def poll(self, now_s: float) -> Motion:
        """What is wanted at a reading of the steady clock; `STILL` if the dead-man time has passed. Returns at once."""
        ...

    @property
    def gripper_toggles(self) -> int:
        """How often the person asked for the gripper's other state."""
        ...

    @property
    def stopped(self) -> bool:
        """The person pressed stop, or the device is gone. It stays so."""
        ...

    @property
    def takes_over(self) -> bool:
        """The person wants to command, instead of a policy."""
        ...

    def close(self) -> None:
        """Leave the device as it was."""
        ...


@dataclass(frozen=True)
class ActionLayout:
    """Where motions go in an action vector of a contract (A numbers)."""

    size: int
    position: slice
    rotation: slice | None
    gripper: int | None
    high: np.ndarray = field(repr=False)
    """(A,) what 1.0 of a motion is."""
    opens: float = 1.0
    """What opens the gripper."""
    gripper_state: int | None = None
    """Where the state vector says what the gripper was last told."""

    @classmethod
    def of(cls, contract: Contract) -> ActionLayout:
        """Find the fields.

        Raises:
            ConfigError: If the actions are not relative Cartesian ones, so that zero does not mean "stay".
        """
        at, position, rotation, gripper = 0, None, None, None
        high = np.ones(contract.action_size, np.float32)
        for part in contract.action:
            place = slice(at, at + part.size)
            at += part.size
            if part.size == 1 and "gripper" in part.name:
                gripper = place.start
            elif part.relative and part.rotation in ("euler_xyz", "rotvec") and rotation is None:
                rotation = place
            elif part.relative and part.size == 3 and part.rotation is None and part.frame and position is None:
                position = place
            else:
                raise ConfigError(
                    f"a person can command relative Cartesian actions only; {part.name!r} of {contract.embodiment} "
                    "is something else. Use a contract with position steps (3), rotation steps (3) and a gripper."
                )
            high[place] = 1.0 if part.high is None else part.high
        if position is None:
            raise ConfigError(f"the contract of {contract.embodiment} has no relative position in its action")
        opens = -1.0 if contract.gripper.startswith("-1 open") else 1.0
        state = np.cumsum([0, *(part.size for part in contract.state)]).tolist()
        told = next(
            (at for at, part in zip(state, contract.state, strict=False) if part.name == "gripper_command"), None
        )
        return cls(
            size=at,
            position=position,
            rotation=rotation,
            gripper=gripper,
            high=high,
            opens=opens,
            gripper_state=told,
        )

    def action(self, motion: Motion, gripper: float) -> np.ndarray:
        """(A,) float32."""
        out = np.zeros(self.size, np.float32)
        out[self.position] = np.clip(motion.linear, -1, 1)
        if self.rotation is not None:
            out[self.rotation] = np.clip(motion.angular, -1, 1)
        out *= self.high
        if self.gripper is not None:
            out[self.gripper] = gripper
        return out


class TeleopActor:
    """Plans what the person at the device commands; the observation is not looked at.

    Args:
        contract: Of the robot; the actor needs none of its cameras.
        device: What the person holds.
        scale: Largest part of the contract's step that a full deflection asks for, in (0, 1].
        chunk_steps: Rows of a plan; all but the first `execute_steps` are zero motion.
        clock: Of the steady clock [s].

    Raises:
        ConfigError: If the contract's actions are not relative Cartesian ones, or a number is out of range.
    """

    def __init__(
        self,
        contract: Contract,
        device: TeleopDevice,
        *,
        scale: float = 1.0,
        execute_steps: int = 1,
        chunk_steps: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < scale <= 1 or not 1 <= execute_steps <= chunk_steps:
            raise ConfigError(
                f"expected a scale in (0, 1] and 1 <= execute_steps <= chunk_steps; found {scale:g}, {execute_steps}, "
                f"{chunk_steps}"
            )
        self.contract = contract.model_copy(update={"cameras": ()})
        self.execute_steps = execute_steps
        self.device = device
        self._layout = ActionLayout.of(contract)
        self._scale, self._chunk_steps, self._clock = scale, chunk_steps, clock
        self._lock = threading.Lock()
        self._gripper = self._layout.opens
        self._toggles = device.gripper_toggles
        self._begun = False

    def reset(self, slots: Sequence[int]) -> None:
        """The gripper's command is taken from the next observation."""
        self._begun = False

    def observe(self, observation: Observation) -> None:
        """Nothing to note."""

    def action(self) -> np.ndarray:
        """(A,) float32: what is commanded now."""
        motion = self._poll()
        if (self.device.gripper_toggles - self._toggles) % 2:
            self._gripper = -self._gripper
        self._toggles = self.device.gripper_toggles
        x, y, z, roll, pitch, yaw = (self._scale * value for value in (*motion.linear, *motion.angular))
        return self._layout.action(Motion(linear=(x, y, z), angular=(roll, pitch, yaw)), self._gripper)

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """The last command for `execute_steps`, then rest; the same for every slot."""
        if not self._begun:
            self._begin(observation)
        moving = self.action()
        rest = self._layout.action(STILL, self._gripper)
        rows = [moving] * self.execute_steps + [rest] * (self._chunk_steps - self.execute_steps)
        return Plan(actions=np.tile(np.stack(rows), (len(observation.slots), 1, 1)))

    def tend(self) -> None:
        """Look at the device between plans, so that a stop or a takeover is noticed at once; from any thread."""
        self._poll()

    def _poll(self) -> Motion:
        with self._lock:
            return STILL if self.device.stopped else self.device.poll(self._clock())

    def _begin(self, observation: Observation) -> None:
        """Begin with the gripper as it is: taking over must not drop what is held."""
        self._begun, at = True, self._layout.gripper_state
        if at is not None and observation.state.size:
            self._gripper = 1.0 if observation.state[0, at] > 0 else -1.0


class TakeoverActor:
    """A policy, until a person takes over; then the person, until the controls are given back.

    The policy sees every observation meanwhile, so that its history is complete when it goes on.

    Args:
        policy: Commands otherwise. Its contract is this actor's.
        teleop: Commands while its device takes over.
        on_change: Told True when the person begins, False when the policy goes on; called by `plan`.

    Raises:
        ConfigError: If their actions differ.
    """

    def __init__(self, policy: Actor, teleop: TeleopActor, on_change: Callable[[bool], None] | None = None) -> None:
        if policy.contract.action != teleop.contract.action:
            raise ConfigError("the policy and the person command different actions; give both the robot's contract")
        self.contract, self._policy, self._teleop, self._on_change = policy.contract, policy, teleop, on_change
        self.execute_steps = 1
        """A person is not kept waiting by a long plan, so the policy too is asked at every step."""
        self.intervening = False
        """A person made the last plan."""

    def reset(self, slots: Sequence[int]) -> None:
        """A new task."""
        self._policy.reset(slots)

    def observe(self, observation: Observation) -> None:
        """The policy takes note."""
        self._policy.observe(observation)

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Of the policy, or the person."""
        person = self._teleop.device.takes_over
        if person != self.intervening:
            self.intervening = person
            self._teleop.reset(observation.slots)
            if self._on_change is not None:
                self._on_change(person)
        if not person:
            return self._policy.plan(observation, foresight=foresight)
        self._policy.observe(observation)
        return self._teleop.plan(observation)
