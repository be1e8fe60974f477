"""What part `gate` of a robot file may not say: what another entry says, and what could never be met."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from foreact.robot_bridge import assemble as assembling
from foreact.robot_bridge.assemble import STATED, assemble, gate_settings
from foreact.robot_bridge.config import Robot, load_robot
from foreact.robot_bridge.conversation import Conversation
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.vla.errors import ConfigError

DESK = load_robot("desk_sim")


def robot(**gate: Any) -> Robot:
    return DESK.model_copy(update={"gate": gate})


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("rate_hz", 10.0, "contract.rate_hz"),
        ("speed_scale", 1.0, "speed_scale"),
        ("cameras", [], "contract.cameras"),
        ("require_description", False, "topics.robot_description"),
    ],
)
def test_what_another_entry_says_is_not_said_again(name: str, value: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=rf"gate\.{name}: set it at {place} of the robot file"):
        gate_settings(robot(**{name: value}))


def test_each_such_entry_is_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)gate\.rate_hz.*gate\.speed_scale"):
        gate_settings(robot(speed_scale=1.0, rate_hz=5.0, late_steps=3.0))


def test_packets_that_nobody_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate\.packet_success is 0\.95, but no transport"):
        gate_settings(robot(packet_success=0.95))
    assert gate_settings(robot(packet_success=0.0)).packet_success == 0.0
    assert GateSettings.from_mapping({"packet_success": 0.95}).packet_success == 0.95  # the library keeps it


def test_an_identity_that_nobody_states_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names normaliser, weights, .* checkpoint and contract_hash"):
        gate_settings(robot(identity={"weights": "a", "normaliser": "b", "checkpoint": "c"}))
    whole = dict.fromkeys(STATED, "a" * 64)
    assert gate_settings(robot(identity=whole)).identity == whole
    assert GateSettings.from_mapping({"identity": {"weights": "a"}}).identity == {"weights": "a"}


def test_what_is_known_is_what_the_bridge_states() -> None:
    gate = MagicMock()
    gate.step = 0
    talk = Conversation(DESK, gate, MagicMock(), MagicMock(), MagicMock(), {}, MagicMock(), lambda: 0.0)
    talk.warmed_up([0.1], 0.0)
    assert tuple(gate.on_identity.call_args.args[0]) == STATED


def test_it_is_said_before_a_policy_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "connect", lambda *_: pytest.fail("it was asked"))
    with pytest.raises(ConfigError, match=r"gate\.packet_success"):
        assemble(robot(packet_success=0.5), MagicMock())
