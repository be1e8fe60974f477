"""What a demonstration or a test asks of a simulated robot, as JSON: one object per line in, one object per line out.

    {"do": "reset", "task": "open_drawer", "start": 3}  ->  {"ok": true, "task": "open_drawer", "instruction": "..."}
    {"do": "status"}                                     ->  {"ok": true, "sim_s": 12.3, "judgement": {...}, ...}

Requests are answered in their order. `id`, if there is one, comes back. What the robot says unasked has "event". A
request that cannot be done is answered with "ok": false and "error", and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from foreact.robot_bridge.sim_robot import SimRobot
from foreact.robot_bridge.sim_robot_faults import CAMERA_FAULTS
from foreact.robot_bridge.types import RobotMode
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

ANSWER_WITHIN_S = 30.0
MAX_LINE = 65_536


class DrawsStarts(Protocol):
    """The part of a body that knows starts; see `foreact.sim.robot_body.DeskBody`."""

    def draw_start(self, task: str | None, number: int) -> Any: ...


class Control:
    """Does requests, see `REQUESTS`. From any one thread other than the one that steps."""

    def __init__(self, robot: SimRobot, starts: DrawsStarts, quit_: Callable[[], None]) -> None:
        """`quit_` ends the program's loop."""
        self._robot, self._starts, self._quit = robot, starts, quit_
        self._do: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "reset": self._reset,
            "begin": self._begin,
            "status": lambda _: self._soon(self._robot.status),
            "mode": self._mode,
            "camera_fault": self._camera_fault,
            "joint_fault": self._joint_fault,
            "block": self._block,
            "quit": self._end,
        }

    def line(self, text: str) -> str:
        """Do the request in a line and return the line that answers it; never raises."""
        request: Any = None
        try:
            if len(text) > MAX_LINE:
                raise ConfigError(f"a request has at most {MAX_LINE} characters, found {len(text)}")
            request = json.loads(text)
            if not isinstance(request, dict):
                raise ConfigError(f'a request is a JSON object such as {{"do": "status"}}, found {text[:80]!r}')
            answer: dict[str, Any] = {"ok": True, **self.request(request)}
        except ForeActError as error:
            answer = {"ok": False, "error": str(error)}
        except TimeoutError:
            answer = {"ok": False, "error": f"the robot did not answer within {ANSWER_WITHIN_S:g} s; is it stepped?"}
        except ValueError as error:
            answer = {"ok": False, "error": f"not JSON: {error}"}
        if isinstance(request, dict) and "id" in request:
            answer["id"] = request["id"]
        return json.dumps(answer)

    def request(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one request.

        Raises:
            ForeActError: If it cannot be done.
        """
        name = request.get("do")
        if not isinstance(name, str) or name not in self._do:
            raise ConfigError(f"no request {name!r}; {did_you_mean(str(name), self._do)}")
        unknown = set(request) - {"do", "id", *REQUESTS[name]}
        if unknown:
            raise ConfigError(
                f"request {name!r}: unknown {sorted(unknown)}; known: {', '.join(REQUESTS[name]) or 'none'}"
            )
        return self._do[name](request)

    def _soon(self, work: Callable[[], Any]) -> Any:
        return self._robot.post(work).result(timeout=ANSWER_WITHIN_S)

    def _reset(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        task, number = _text(request, "task"), _number(request, "start", 0.0)
        if number < 0 or number != int(number):
            raise ConfigError(f"reset: start must be a whole number >= 0, found {number}")
        # drawn here, on a desk of its own, so that the robot goes on publishing meanwhile
        start = self._starts.draw_start(task or None, int(number))

        def jump() -> Mapping[str, Any]:
            self._robot.restart(start)
            return self._robot.body.judgement()

        return self._soon(jump)

    def _begin(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        task, instruction = _text(request, "task"), _text(request, "instruction")

        def begin() -> Mapping[str, Any]:
            self._robot.begin(task or None, instruction)
            return self._robot.body.judgement()

        return self._soon(begin)

    def _mode(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        value = _text(request, "mode")
        if value not in set(RobotMode):
            raise ConfigError(f"no mode {value!r}; {did_you_mean(value, [m.value for m in RobotMode])}")
        self._soon(lambda: self._robot.set_mode(RobotMode(value)))
        return {"mode": value}

    def _camera_fault(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        camera, fault, amount = _text(request, "camera"), _text(request, "fault"), _number(request, "amount", 0.0)
        self._soon(lambda: self._robot.set_camera_fault(camera, fault, amount))
        return {"camera": camera, "fault": fault, "means": CAMERA_FAULTS.get(fault, "none")}

    def _joint_fault(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        drop, offset_s = _number(request, "drop", 0.0), _number(request, "stamp_offset_s", 0.0)
        frozen = bool(request.get("frozen", False))
        if not 0.0 <= drop <= 1.0:
            raise ConfigError(f"joint_fault: drop is a share between 0 and 1, found {drop}")

        def set_them() -> Mapping[str, Any]:
            faults = self._robot.joint_faults
            faults.drop, faults.stamp_offset_s, faults.frozen = drop, offset_s, frozen
            return {"drop": drop, "stamp_offset_s": offset_s, "frozen": frozen}

        return self._soon(set_them)

    def _block(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        joint = _text(request, "joint")
        self._soon(lambda: self._robot.block_joint(joint))
        return {"joint": joint}

    def _end(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._quit()
        return {}


REQUESTS: dict[str, tuple[str, ...]] = {
    "reset": ("task", "start"),
    "begin": ("task", "instruction"),
    "status": (),
    "mode": ("mode",),
    "camera_fault": ("camera", "fault", "amount"),
    "joint_fault": ("drop", "stamp_offset_s", "frozen"),
    "block": ("joint",),
    "quit": (),
}
"""Request -> what may stand in it.

- reset: arm and scene jump to start number `start` of `task` (any start without one), which is judged from then on
- begin: judge `task` from now on; nothing moves
- mode: ok, protective_stop, emergency_stop or reflex
- camera_fault: one of `CAMERA_FAULTS`; "" ends it
- joint_fault: what happens to joint states, all values at once
- block: jam `joint`; "" lets go
"""


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key, "")
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 1000:
        raise ConfigError(f"{key} must be a string of at most 1000 characters, found {value!r:.80}")
    return value


def _number(request: Mapping[str, Any], key: str, default: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ConfigError(f"{key} must be a number, found {value!r:.80}")
    return float(value)
