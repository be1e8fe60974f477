"""A policy that was lost and comes back: warmed up again by itself, driven by nobody before an operator arms again."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridge_chain import REST, World

from foreact.robot_bridge.comeback import AGAIN_S, SAME
from foreact.robot_bridge.types import State
from foreact.vla.errors import ForeActError


def lost(folder: Path, number: int = 0) -> World:
    """A world whose policy was lost while the arm moved; disarmed, at rest."""
    world = World(folder, number)
    world.go(seconds=1.0)
    world.policy.lost, world.policy.there = True, False
    world.until(lambda: world.state is State.FAULT, 0.6)
    world.run(1.0)
    assert world.policy.tries == 0  # who looks for another policy is disarmed
    world.bridge.command("disarm", True, world.now_s)
    return world


def policy_events(world: World) -> list[str]:
    return [event.message for event in world.log.last(1000) if event.kind == "policy"]


@pytest.mark.fault(
    "B9", n=4, event="the policy is lost and comes back: no motion before it is armed again (whole chain)"
)
@pytest.mark.parametrize("number", range(4))
def test_a_policy_that_is_back_may_be_armed_and_not_before(number: int, tmp_path: Path) -> None:
    world = lost(tmp_path, number)
    since_s = world.now_s
    world.run(5.5)
    assert 4 <= world.policy.tries <= 6 and len(policy_events(world)) == 1
    done, sentence = world.bridge.command("arm", True, world.now_s)
    assert not done and "was lost" in sentence

    world.policy.there = True
    took_s = world.until(lambda: not world.gate.watches.policy.lost, 10.0)
    assert took_s < AGAIN_S + 20 * 0.08 + 0.5
    assert "20 plans" in policy_events(world)[-1]
    world.run(2.0)
    assert max(speed for at_s, speed, _ in world.moves if at_s > since_s) < REST
    assert world.state is State.DISARMED

    world.arm_it()
    world.run(1.0)
    assert world.state is State.READY  # the words were for the policy that was there when they were said
    world.script.asked.clear()
    world.link.say("close the drawer")
    world.until(lambda: world.state is State.RUNNING, 2.0)
    assert world.script.asked[0]["kind"] == "reset"
    assert world.policy.tries <= 7


@pytest.mark.fault("B21", n=6, event="a policy comes back that states something else than before: refused by name")
@pytest.mark.parametrize("name", SAME)
def test_another_policy_in_its_place_is_refused(name: str, tmp_path: Path) -> None:
    world = lost(tmp_path)
    world.script.metadata = {**world.script.metadata, name: "another"}
    world.policy.there = True
    world.run(5.0)
    done, sentence = world.bridge.command("arm", True, world.now_s)
    assert not done and "was lost" in sentence
    assert f"other {name}" in policy_events(world)[-1] and len(policy_events(world)) <= 2
    assert not any(request.get("prompt") == "warm up" for request in world.script.asked[-5:])


def test_a_policy_that_fails_while_it_warms_up_again(tmp_path: Path) -> None:
    world = lost(tmp_path)

    def fails(reply: object, request: object) -> dict:
        raise ForeActError("out of memory")

    well, world.script.change = world.script.change, fails
    world.policy.there = True
    world.run(3.0)
    assert "out of memory" in policy_events(world)[-1] and world.gate.watches.policy.lost
    world.script.change = well
    world.until(lambda: not world.gate.watches.policy.lost, 5.0)
    world.go()


def test_a_policy_that_is_lost_again_while_it_warms_up(tmp_path: Path) -> None:
    world = lost(tmp_path)
    world.policy.there = True
    world.until(lambda: world.bridge.conversation.comeback.warms_up, 3.0)
    world.policy.lost = True
    world.run(0.1)
    assert "lost again" in policy_events(world)[-1]
    world.until(lambda: not world.gate.watches.policy.lost, 5.0)
    world.go()


def test_a_policy_that_came_back_too_slow_is_not_armed(tmp_path: Path) -> None:
    world = lost(tmp_path)
    world.policy.there, world.policy.latency_s = True, lambda: 0.45
    world.until(lambda: not world.gate.watches.policy.lost, 15.0)
    done, sentence = world.bridge.command("arm", True, world.now_s)
    assert not done and "450 ms" in sentence
