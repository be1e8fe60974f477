"""Words are spent once they are obeyed or the arm is stopped: only new ones start it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bridge_chain import World

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.types import RobotMode, State


def stop(world: World) -> None:
    assert world.bridge.command("stop", True, world.now_s)[0]


def disarm_and_arm(world: World) -> None:
    world.bridge.command("disarm", True, world.now_s)
    world.run(0.5)
    world.arm_it()


def emergency_stop_and_arm(world: World) -> None:
    world.robot.set_mode(RobotMode.EMERGENCY_STOP)
    world.run(0.5)
    assert world.state is State.FAULT
    world.link.say("close the drawer")  # to an arm that is not armed
    world.run(0.2)
    world.robot.set_mode(RobotMode.OK)
    world.run(0.5)
    disarm_and_arm(world)


@pytest.mark.fault("B9", n=6, event="stop, disarm or emergency stop after other words: no motion without new words")
@pytest.mark.parametrize("other_words_after_s", [0.02, 0.7])
@pytest.mark.parametrize("halt", [stop, disarm_and_arm, emergency_stop_and_arm])
def test_the_arm_stays_until_somebody_speaks(
    halt: Callable[[World], None], other_words_after_s: float, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.go("open the drawer")
    world.link.say("push the handle to close the drawer")
    world.run(other_words_after_s)
    halt(world)
    world.until(lambda: world.state is State.READY)
    where = world.q
    world.run(3.0)
    assert world.state is State.READY, world.tail()
    np.testing.assert_allclose(world.q, where, atol=2e-3)
    world.link.say("open the drawer")
    world.until(lambda: world.state is State.RUNNING)


@pytest.mark.fault("B9", n=3, event="the computer is suspended, its steady clock with it: no motion without re-arm")
@pytest.mark.parametrize("slept_s", [0.6, 60.0, 30_000.0])
def test_a_suspended_computer_ends_in_fault(slept_s: float, tmp_path: Path) -> None:
    asleep = [0.0]
    world = World(tmp_path, asleep=lambda: asleep[0])
    world.go()
    asleep[0] += slept_s
    world.offset_s += slept_s
    world.step()
    assert world.state is State.FAULT and world.gate.cause is Cause.TICK_LATE
    assert "slept" in world.bridge.command("arm", True, world.now_s)[1]


def test_an_arm_that_was_sent_to_a_sleeper_is_not_obeyed_on_waking(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.bridge_runs = False
    world.run(3.0)
    world.bridge_runs = True
    world.step()
    done, said = world.bridge.command("arm", True, world.now_s)
    assert not done and "ask again" in said
    world.run(2.5)
    world.arm_it()


def test_a_gripper_that_holds_something_is_not_told_to_open(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arm_it()
    width_m = world.body.state()[2]
    assert world.gate.gripper_command == (1.0 if width_m > 0.07 else -1.0)
