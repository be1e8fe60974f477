"""Ends or stops the policy's process and the gate's while the arm moves, again and again, and looks at the arm."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foreact.commands.robot_demo import open_operator
from foreact.commands.robot_processes import ProcessEnded, Stand
from foreact.robot_bridge.operator import NoBridge, Operator
from foreact.vla.errors import ForeActError

KINDS = (("gate", "SIGKILL"), ("gate", "SIGSTOP"), ("policy", "SIGKILL"), ("policy", "SIGSTOP"))
REST_RAD_S = 0.01
"""A joint slower than this rests."""
BOUND_S = 0.5
"""From the signal until the arm rests."""
_WATCH_S = 1.2
_BACK_S = {"gate": 1.0, "policy": 4.0}
"""How long the arm is looked at after a killed process was started again; the gate takes a while to find its policy."""
_ARM_S = 20.0
_MOVING_RAD_S = 0.03
_WORDS = ("open the drawer", "close the drawer", "turn on the light bulb", "slide the door to the left")


@dataclass
class Trial:
    """One signal."""

    process: str
    signal: str
    speed_rad_s: float
    """Of the fastest joint just before."""
    rest_s: float
    """From the signal to rest, on the robot's own clock."""
    after_rad_s: float
    """Fastest joint from rest until somebody armed it again."""
    state: str
    """Of the gate that came up, or went on, before it was armed again."""

    @property
    def missed(self) -> bool:
        """Whether it moved too long, moved again, or could have."""
        ready = self.state in ("ready", "running", "hold")
        return self.rest_s > BOUND_S or self.after_rad_s > REST_RAD_S or ready


@dataclass
class Report:
    """All trials."""

    trials: list[Trial] = field(default_factory=list)
    wanted: int = 0
    at_rest: int = 0
    """Times at which no moment was found at which the arm moved; not counted as trials."""

    @property
    def misses(self) -> int:
        """Trials in which something was not as it must be."""
        return sum(trial.missed for trial in self.trials)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bound_s": BOUND_S, "wanted": self.wanted, "trials": len(self.trials), "misses": self.misses,
            "no_motion": self.at_rest,
            "rows": [{**asdict(trial), "missed": trial.missed} for trial in self.trials],
        }  # fmt: skip

    def table(self) -> str:
        """For people."""
        lines = [f"{'':16} {'N':>4} {'missed':>7} {'median':>9} {'worst':>9}   seconds to rest, bound {BOUND_S:g}"]
        for process, name in KINDS:
            rows = [t for t in self.trials if (t.process, t.signal) == (process, name)]
            if rows:
                times = sorted(t.rest_s for t in rows)
                lines.append(
                    f"{process + ' ' + name:16} {len(rows):4} {sum(t.missed for t in rows):7} "
                    f"{times[len(times) // 2]:9.3f} {times[-1]:9.3f}"
                )
        if len(self.trials) < self.wanted:
            lines.append(f"only {len(self.trials)} of {self.wanted} trials found the arm in motion")
        return "\n".join([*lines, f"{self.at_rest} times the arm did not move by itself and was not counted"])


def kill_test(
    checkpoint: str, robot: str, out: Path, n: int, domain_id: int, *, seed: int = 0,
    kinds: tuple[tuple[str, str], ...] = KINDS, say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """So many trials of each kind, on one stand; what was ended is started again. Each is also a line of
    `out/kills.jsonl` as soon as it is over.

    Raises:
        ForeActError: If the stand cannot be brought up.
    """
    rng, report = random.Random(seed), Report(wanted=n * len(kinds))
    with Stand(checkpoint, robot, out, store=False, domain_id=domain_id) as stand:
        person = open_operator(stand)
        try:
            for _ in range(n):
                for process, name in kinds:
                    for _ in range(3):
                        if (trial := _trial(stand, person, process, name, rng)) is not None:
                            report.trials.append(trial)
                            with (out / "kills.jsonl").open("a") as file:
                                file.write(json.dumps(asdict(trial)) + "\n")
                            say(f"{len(report.trials):4} {process} {name}: rest after {trial.rest_s:.3f} s"
                                + (" MISSED" if trial.missed else ""))  # fmt: skip
                            break
                        report.at_rest += 1
        finally:
            person.close()
    return report


def _trial(stand: Stand, person: Operator, process: str, name: str, rng: random.Random) -> Trial | None:
    robot = stand.children["robot"]
    _bring_up(stand, person)
    robot.ask({"do": "reset", "task": "", "start": rng.randrange(20)})
    time.sleep(1.0)
    _arm(person)
    person.say(rng.choice(_WORDS))
    end, lasting = time.monotonic() + 15.0, time.monotonic() + rng.uniform(0.5, 3.0)
    while True:
        speed = float(robot.ask({"do": "status"})["joint_speed"])
        if time.monotonic() > lasting and speed > _MOVING_RAD_S and person.state.get("state") == "running":
            break
        if time.monotonic() > end:
            person.command("arm", False)
            return None
        time.sleep(0.01)
    child = stand.children[process]
    began = float(robot.ask({"do": "status"})["sim_s"])
    os.kill(child.process.pid, getattr(signal, name))
    rest_s, after = _watch(robot, began)
    if name == "SIGSTOP":
        os.kill(child.process.pid, signal.SIGCONT)
        after = max(after, _watch_rest(robot, 1.5))
    else:
        child.process.wait()
    if name == "SIGKILL":
        stand.restart(process)
    after = max(after, _watch_rest(robot, _BACK_S[process] if name == "SIGKILL" else 1.0))
    person.wait(lambda: False, 1.1)  # the state is told once a second
    return Trial(process, name, speed, rest_s, after, str(person.state.get("state")))


def _watch(robot: Any, began: float) -> tuple[float, float]:
    """Until when the arm moved after `began` [s], and its greatest speed after the bound [rad/s]."""
    last, after, now = began, 0.0, began
    while now < began + _WATCH_S:
        status = robot.ask({"do": "status"})
        now, speed = float(status["sim_s"]), float(status["joint_speed"])
        if speed > REST_RAD_S:
            last = now
        if now > began + BOUND_S:
            after = max(after, speed)
        time.sleep(0.005)
    return last - began, after


def _watch_rest(robot: Any, seconds: float) -> float:
    end, fastest = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        fastest = max(fastest, float(robot.ask({"do": "status"})["joint_speed"]))
        time.sleep(0.01)
    return fastest


def _bring_up(stand: Stand, person: Operator) -> None:
    """Start again what is gone."""
    if stand.children["policy"].process.poll() is not None:
        stand.restart("policy")
    try:
        stand.children["gate"].check()
        person.command("arm", False)
    except (ProcessEnded, NoBridge):
        stand.restart("gate")


def _arm(person: Operator) -> None:
    """Arm, as soon as the gate has its policy back.

    Raises:
        ForeActError: If it cannot be armed.
    """
    done, sentence = person.arm(_ARM_S)
    if not done:
        raise ForeActError(f"the gate could not be armed within {_ARM_S:g} s: {sentence}")
