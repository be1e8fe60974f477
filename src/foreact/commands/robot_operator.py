"""`foreact robot say|arm|disarm|stop`: what an operator types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from foreact.commands.robot_run import DOMAIN, ROBOT

if TYPE_CHECKING:
    from foreact.robot_bridge.operator import Operator


@contextmanager
def operator(robot: str, domain_id: int) -> Iterator[Operator]:
    """Joined to the topics of that robot's bridge.

    Raises:
        NoBridge: If none is heard.
    """
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.network import read_network
    from foreact.robot_bridge.operator import Operator

    names = load_robot(robot).topic_names()
    found = Operator(names, read_network(domain_id=None if domain_id < 0 else domain_id))
    try:
        found.open()
        yield found
    finally:
        found.close()


def say(
    instruction: Annotated[str, typer.Argument(help='What to do, such as "open the drawer".')],
    robot: Annotated[str, typer.Option(help="Robot file.")] = "desk_sim",
    domain_id: DOMAIN = -1,
) -> None:
    """Tell the policy what to do. The arm obeys once it is armed."""
    with operator(robot, domain_id) as person:
        person.say(instruction)
        person.wait(lambda: False, 0.5)
        print(f"said {instruction!r}; the gate is {person.state.get('state')}: {person.state.get('message', '')}")


def arm(robot: ROBOT = "desk_sim", domain_id: DOMAIN = -1) -> None:
    """Let it move. Prints every reason if it may not."""
    _command(robot, domain_id, "arm", True)


def disarm(robot: ROBOT = "desk_sim", domain_id: DOMAIN = -1) -> None:
    """Let nothing move any more."""
    _command(robot, domain_id, "arm", False)


def stop(robot: ROBOT = "desk_sim", domain_id: DOMAIN = -1) -> None:
    """Stop smoothly; the next instruction moves it again. This is no emergency stop."""
    _command(robot, domain_id, "stop", True)


def _command(robot: str, domain_id: int, name: str, value: bool) -> None:
    with operator(robot, domain_id) as person:
        done, sentence = person.command(name, value)
        print(sentence)
        raise typer.Exit(0 if done else 1)
