"""`foreact robot teleop`: a person instead of a policy, or beside one, on the same way to the arm."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreact.commands.robot_operator import operator
from foreact.commands.robot_run import DOMAIN, ROBOT

if TYPE_CHECKING:
    from foreact.robot_bridge.teleop import TeleopDevice
    from foreact.vla.policy import Actor

POLL_S = 0.02


def teleop(
    robot: ROBOT = "desk_sim",
    gamepad: Annotated[str, typer.Option(help="Joystick device, such as /dev/input/js0; empty: the keyboard.")] = "",
    checkpoint: Annotated[str, typer.Option(help="A policy commands until you take over (tab, or Y).")] = "",
    scale: Annotated[float, typer.Option(help="Part of a policy's largest step that you can ask for.")] = 1.0,
    port: Annotated[int, typer.Option(help="Where `foreact robot run` asks; 0: any that is free.")] = 8000,
    device: Annotated[str, typer.Option(help="Of the policy's network.")] = "cpu",
    domain_id: DOMAIN = -1,
) -> None:
    """Command the arm by hand, through the gate: this takes the place of `foreact serve`."""
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.planner_hook import robot_hook
    from foreact.robot_bridge.teleop import TakeoverActor, TeleopActor
    from foreact.vla.serving.service import PolicyService

    settings = load_robot(robot)
    to_joints = robot_hook(robot)
    with ExitStack() as stack:
        policy = _policy(checkpoint, device) if checkpoint else None
        held = open_device(gamepad)
        stack.callback(held.close)
        person = TeleopActor(settings.contract if policy is None else policy.contract, held, scale=scale)
        actor: Actor = person
        if policy is not None:
            actor = TakeoverActor(policy, person, on_change=_flagger(robot, domain_id))
        service = PolicyService(actor, about={"title": "a person"}, to_joints=to_joints(actor.contract))
        service.warm_up()
        asyncio.run(_serve(service, port, person.tend, lambda: held.stopped))
    print("stopped", file=sys.stderr)


def open_device(gamepad: str) -> TeleopDevice:
    """The joystick of that path, or the keyboard.

    Raises:
        ForeActError: If there is none.
    """
    if gamepad:
        from foreact.robot_bridge.teleop_gamepad import Gamepad

        return Gamepad(gamepad)
    from foreact.robot_bridge.teleop_keys import HELP, Keyboard

    found = Keyboard()
    print(HELP, file=sys.stderr)
    return found


async def _serve(service: Any, port: int, tend: Callable[[], None], stopped: Callable[[], bool]) -> None:
    """Answer until the person stops; the keys are looked at between questions, so that a stop is never waited for."""
    from foreact.vla.serving.openpi_server import OpenPiServer

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = OpenPiServer(service, port=port)
    try:
        print(f"the gate can ask at {await server.start()}", file=sys.stderr)
        while not ended.is_set() and not stopped():
            tend()
            await asyncio.sleep(POLL_S)
        if stopped():
            await asyncio.sleep(0.5)  # the gate is told to rest; after that it is told nothing, and stops by itself
    finally:
        await server.stop()


def _policy(checkpoint: str, device: str) -> Actor:
    from foreact.vla.actors import load_checkpoint_actor
    from foreact.vla.hub import local_checkpoint

    return load_checkpoint_actor(local_checkpoint(checkpoint), device=device, batch_size=1)


def _flagger(robot: str, domain_id: int) -> Callable[[bool], None]:
    """Tells the gate's process who leads, so that its recording flags interventions; never holds up a plan."""
    wanted: list[bool] = []
    news = threading.Event()

    def tell() -> None:
        while news.wait():
            news.clear()
            said = wanted[-1]
            try:
                with operator(robot, domain_id) as link:
                    done, sentence = link.command("takeover", said)
                if not done:
                    print(f"the recording does not flag this: {sentence}", file=sys.stderr)
            except Exception as error:  # the arm obeys all the same
                print(f"the recording does not flag this: {error}", file=sys.stderr)
            time.sleep(POLL_S)

    threading.Thread(target=tell, name="takeover", daemon=True).start()

    def change(person: bool) -> None:
        print("you command" if person else "the policy commands", file=sys.stderr)
        wanted.append(person)
        news.set()

    return change
