"""Keys through a real terminal (pty), a gamepad through a pipe of its documented events, and the plans they become."""

from __future__ import annotations

import os
import pty
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foreact.robot_bridge.teleop import STILL, Motion, TakeoverActor, TeleopActor
from foreact.robot_bridge.teleop_gamepad import Gamepad, NoGamepad, PadLayout
from foreact.robot_bridge.teleop_keys import Keyboard, NoTerminal
from foreact.sim.embodiment import desk_contract
from foreact.vla.actors import RandomActor
from foreact.vla.contract import Contract, Field
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor, Observation

DESK = desk_contract()
MOVES = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1), "q": (3, -1), "e": (3, 1),
    "\x1b[A": (4, 1), "\x1b[B": (4, -1), "\x1b[D": (5, 1), "\x1b[C": (5, -1),
}  # fmt: skip


class Typist:
    """The other end of a terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.keys = Keyboard(self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())
        time.sleep(0.01)  # the terminal passes them on


@pytest.fixture
def typist() -> Iterator[Typist]:
    found = Typist()
    yield found
    found.keys.close()
    for fd in (found.master, found.slave):
        try:
            os.close(fd)
        except OSError:
            continue


def six(motion: Motion) -> list[float]:
    return [*motion.linear, *motion.angular]


def seen(gripper: float = 1.0, slots: int = 1) -> Observation:
    state = np.zeros((slots, DESK.state_size), np.float32)
    state[:, -1] = gripper
    return Observation(slots=list(range(slots)), images={}, state=state, instruction=[""] * slots)


@pytest.mark.parametrize("key", MOVES)
def test_each_key_moves_one_way_and_only_while_it_is_held(typist: Typist, key: str) -> None:
    typist.type(key)
    expected = [0.0] * 6
    expected[MOVES[key][0]] = MOVES[key][1]
    assert six(typist.keys.poll(10.0)) == expected
    assert six(typist.keys.poll(10.19)) == expected
    assert typist.keys.poll(10.21) == STILL  # the dead-man time is over
    typist.type(key.upper() if len(key) == 1 else key)
    assert six(typist.keys.poll(11.0)) == expected


def test_several_keys_at_once_and_the_opposite_key(typist: Typist) -> None:
    typist.type("wr\x1b[A")
    assert six(typist.keys.poll(1.0)) == [1, 0, 1, 0, 1, 0]
    typist.type("s")
    assert six(typist.keys.poll(1.1)) == [-1, 0, 1, 0, 1, 0]
    assert six(typist.keys.poll(1.25)) == [-1, 0, 0, 0, 0, 0]
    typist.type("?xÄ\x1b[Z")  # keys that mean nothing
    assert six(typist.keys.poll(2.0)) == [0] * 6 and not typist.keys.stopped


def test_gripper_takeover_and_stop(typist: Typist) -> None:
    typist.type("  \t ")
    typist.keys.poll(1.0)
    assert typist.keys.gripper_toggles == 3 and typist.keys.takes_over
    typist.type("w\x1b")
    assert six(typist.keys.poll(2.0))[0] == 1 and not typist.keys.stopped  # perhaps an arrow
    assert typist.keys.poll(2.06) == STILL and typist.keys.stopped and not typist.keys.takes_over
    typist.type("w")
    assert typist.keys.poll(2.1) == STILL  # it stays stopped


def test_an_arrow_that_comes_in_pieces_is_no_stop(typist: Typist) -> None:
    for part in ("\x1b", "[", "A"):
        typist.type(part)
        typist.keys.poll(1.0)
    assert six(typist.keys.poll(1.01))[4] == 1 and not typist.keys.stopped


def test_ctrl_c_stops_and_the_terminal_is_given_back(typist: Typist) -> None:
    assert termios.tcgetattr(typist.slave)[3] & termios.ICANON == 0
    typist.type("\x03")
    assert typist.keys.poll(1.0) == STILL and typist.keys.stopped
    typist.keys.close()
    typist.keys.close()
    assert termios.tcgetattr(typist.slave) == typist.before


def test_a_terminal_that_goes_away_stops(typist: Typist) -> None:
    typist.type("w")
    assert six(typist.keys.poll(1.0))[0] == 1
    os.close(typist.master)
    assert typist.keys.poll(1.01) == STILL and typist.keys.stopped


def test_keys_need_a_terminal(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file, pytest.raises(NoTerminal, match="needs a terminal"):
        Keyboard(file.fileno())


class Pad:
    """What the kernel writes."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.pad = Gamepad(path)
        self.fd = os.open(path, os.O_WRONLY)

    def send(self, *events: tuple[str, int, int]) -> None:
        kinds = {"button": 1, "axis": 2, "first button": 0x81, "first axis": 0x82}
        data = b"".join(struct.pack("=IhBB", 7, value, kinds[kind], number) for kind, number, value in events)
        os.write(self.fd, data)


@pytest.fixture
def pad(tmp_path: Path) -> Iterator[Pad]:
    found = Pad(tmp_path / "js0")
    yield found
    found.pad.close()
    if found.fd >= 0:
        os.close(found.fd)


def test_sticks_move_while_the_dead_man_button_is_held(pad: Pad) -> None:
    pad.send(("first button", 4, 1), ("first axis", 1, -32767))
    assert pad.pad.poll(0.0) == STILL  # held from the start: it must be pressed anew
    pad.send(("button", 4, 0), ("button", 4, 1))
    assert six(pad.pad.poll(1.0)) == [1, 0, 0, 0, 0, 0]
    assert six(pad.pad.poll(99.0)) == [1, 0, 0, 0, 0, 0]  # a stick that is held still sends nothing
    pad.send(("axis", 1, 0), ("axis", 0, 16384), ("axis", 4, 32767), ("axis", 3, -32768), ("axis", 6, 3000))
    found = six(pad.pad.poll(100.0))
    assert found == pytest.approx([0, -(16384 / 32767 - 0.1) / 0.9, -1, 0, 0, 1])
    pad.send(("button", 4, 0))
    assert pad.pad.poll(101.0) == STILL


def test_buttons_of_the_pad(pad: Pad) -> None:
    pad.send(("first button", 0, 1), ("button", 0, 0), ("button", 0, 1), ("button", 0, 0), ("button", 3, 1))
    pad.pad.poll(0.0)
    assert pad.pad.gripper_toggles == 1 and pad.pad.takes_over and not pad.pad.stopped
    pad.send(("button", 4, 1), ("axis", 1, -32767), ("button", 1, 1), ("button", 1, 0))
    assert pad.pad.poll(0.1) == STILL and pad.pad.stopped and not pad.pad.takes_over


def test_events_in_pieces_and_a_pad_that_is_unplugged(pad: Pad) -> None:
    event = struct.pack("=IhBB", 0, 1, 1, 4) + struct.pack("=IhBB", 0, -32767, 2, 1)
    os.write(pad.fd, event[:11])
    assert pad.pad.poll(0.0) == Motion(alive=True)
    os.write(pad.fd, event[11:])
    assert six(pad.pad.poll(0.1))[0] == 1
    os.close(pad.fd)
    pad.fd = -1
    assert pad.pad.poll(0.2) == STILL and pad.pad.stopped


def test_no_gamepad(tmp_path: Path) -> None:
    with pytest.raises(NoGamepad, match="No such file or directory; joysticks here: "):
        Gamepad(tmp_path / "js9", PadLayout())


def test_plans_move_for_a_moment_and_then_rest(typist: Typist) -> None:
    now = [10.0]
    actor = TeleopActor(DESK, typist.keys, scale=0.5, execute_steps=2, chunk_steps=5, clock=lambda: now[0])
    assert isinstance(actor, Actor) and not actor.contract.cameras
    typist.type("wq")
    plan = actor.plan(seen(slots=3)).actions
    assert plan.shape == (3, 5, 7) and plan.dtype == np.float32
    moving, rest = [0.5, 0, 0, -0.5, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1]
    assert plan[1].tolist() == [moving, moving, rest, rest, rest]
    now[0] += 0.25
    assert (actor.plan(seen()).actions[0] == rest).all()
    typist.type(" ")
    assert actor.plan(seen()).actions[0, :, 6].tolist() == [-1] * 5
    typist.type("w\x03")
    assert (actor.plan(seen()).actions[0, :, :6] == 0).all()


@pytest.mark.parametrize("held", [1.0, -1.0])
def test_a_person_takes_over_and_gives_back(typist: Typist, held: float) -> None:
    now = [10.0]
    policy, changes = RandomActor(DESK), []
    teleop = TeleopActor(DESK, typist.keys, clock=lambda: now[0])
    actor = TakeoverActor(policy, teleop, changes.append)
    assert isinstance(actor, Actor) and actor.execute_steps == 1
    assert np.array_equal(actor.plan(seen()).actions, RandomActor(DESK).plan(seen()).actions)
    typist.type("\td")
    teleop.tend()
    plan = actor.plan(seen(held)).actions[0]
    # What the gripper holds is not dropped.
    assert plan[0].tolist() == [0, -1, 0, 0, 0, 0, held] and actor.intervening and changes == [True]
    typist.type("\t")
    teleop.tend()
    assert len(actor.plan(seen()).actions[0]) == policy.execute_steps and changes == [True, False]


def test_contracts_that_cannot_be_commanded_by_hand(typist: Typist) -> None:
    with pytest.raises(ConfigError, match="'tcp_target_position' of panda_long_finger is something else"):
        TeleopActor(desk_contract(action_mode="absolute_cartesian"), typist.keys)
    with pytest.raises(ConfigError, match="'delta_joint_position'"):
        TeleopActor(desk_contract(action_mode="relative_joint"), typist.keys)
    grip = Contract(embodiment="g", rate_hz=30, cameras=(), action=(Field(name="gripper", size=1, unit="1"),))
    with pytest.raises(ConfigError, match="no relative position"):
        TeleopActor(grip, typist.keys)
    with pytest.raises(ConfigError, match=r"scale in \(0, 1\]"):
        TeleopActor(DESK, typist.keys, scale=2.0)
    with pytest.raises(ConfigError, match="different actions"):
        TakeoverActor(RandomActor(desk_contract(action_mode="relative_joint")), TeleopActor(DESK, typist.keys))
