"""`foreact robot run` and `preflight` before anything is sent: the outputs they know, Ctrl-C while it warms up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from foreact.commands import robot_preflight, robot_run
from foreact.robot_bridge import assemble as assembling
from foreact.robot_bridge.event_log import EventLog
from foreact.vla.errors import ConfigError, ForeActError

DESK = Path(__file__).parents[2] / "robot_bridge/robots/desk_sim.yaml"


def app() -> typer.Typer:
    found = typer.Typer()
    found.command()(robot_run.run)
    found.command()(robot_preflight.preflight)
    return found


def robot_file(folder: Path, **changes: Any) -> str:
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(DESK.read_text()) | changes))
    return str(path)


@pytest.mark.parametrize("command", ["run", "preflight"])
@pytest.mark.parametrize("transport", robot_run.TRANSPORTS)
@pytest.mark.parametrize("output", ["action", "servo_twist"])
def test_an_output_that_only_ros_can_send_is_refused(
    output: str, transport: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_run, "open_transport", lambda *_: pytest.fail("it was opened"))
    monkeypatch.setattr(robot_preflight, "open_transport", lambda *_: pytest.fail("it was opened"))
    words = [command, robot_file(tmp_path, output=output), "--transport", transport]
    error = CliRunner().invoke(app(), words).exception
    assert isinstance(error, ConfigError)
    assert f"`output: {output}`" in str(error) and "ros2 launch foreact_ros bridge.launch.py" in str(error)
    package = Path(__file__).parents[2] / "launch/ros2"
    assert (package / "launch/bridge.launch.py").is_file()
    assert "<name>foreact_ros<" in (package / "package.xml").read_text()


def test_preflight_names_gate_settings_that_could_never_arm(tmp_path: Path) -> None:
    error = CliRunner().invoke(app(), ["preflight", robot_file(tmp_path, gate={"packet_success": 0.9})]).exception
    assert isinstance(error, ConfigError) and "gate.packet_success" in str(error)


# ---- Ctrl-C while it warms up ----------------------------------------------------------------------------------------


class Bridge:
    """Waits for joints that never come."""

    def __init__(self, told: int | None):
        self.gate = SimpleNamespace(log=EventLog())
        self.told, self.closed, self.ran = told, False, False

    def start(self) -> None: ...

    def warm_up(self, *, until: Callable[[], bool]) -> list[float]:
        if self.told is None:
            raise ForeActError("nothing to show the policy")
        os.kill(os.getpid(), self.told)
        end = time.monotonic() + 5.0
        while not until():
            assert time.monotonic() < end, "nobody said that it is over"
        raise ForeActError("told to end before the policy was warm")

    def run(self, until: Callable[[], bool]) -> None:
        self.ran = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, handlers: None) -> Callable[[Bridge], Any]:
    def invoke(bridge: Bridge) -> Any:
        monkeypatch.setattr(robot_run, "open_transport", lambda *_: (None, []))
        monkeypatch.setattr(assembling, "assemble", lambda *_, **__: bridge)
        return CliRunner().invoke(app(), ["run"])

    return invoke


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_when_told_to_while_it_warms_up(number: int, stand: Callable[[Bridge], Any]) -> None:
    bridge = Bridge(number)
    result = stand(bridge)
    assert result.exit_code == 0 and result.exception is None and not result.output
    assert bridge.closed and not bridge.ran


def test_a_policy_that_does_not_warm_up_is_an_error(stand: Callable[[Bridge], Any]) -> None:
    bridge = Bridge(None)
    result = stand(bridge)
    assert isinstance(result.exception, ForeActError) and "nothing to show" in str(result.exception)
    assert bridge.closed and not bridge.ran


def test_the_bridge_itself_gives_up_when_told_to() -> None:
    from foreact.robot_bridge.bridge import Bridge as Real

    bridge = object.__new__(Real)
    bridge._clock = time.monotonic
    bridge.conversation = SimpleNamespace(unseen=lambda: ["no joint states"])  # type: ignore[assignment]
    with pytest.raises(ForeActError, match="told to end"):
        bridge.warm_up(until=lambda: True)
