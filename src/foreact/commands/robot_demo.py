"""`foreact robot demo`: a simulated robot, a policy and the gate as three processes do what you type."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

if TYPE_CHECKING:
    from foreact.commands.robot_processes import Stand
    from foreact.robot_bridge.operator import Operator

_STEPS = 360
"""Policy steps that a try may take, as on the benchmark."""


def demo(
    instruction: Annotated[str, typer.Argument(help="What to do; empty: you are asked, again and again.")] = "",
    task: Annotated[str, typer.Option(help="Start where this task can be done, and judge it.")] = "",
    tries: Annotated[int, typer.Option(help="Instead: so many tries of each fixture task, counted.", min=0)] = 0,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint folder; default: the one in the source tree.")] = "",
    robot: Annotated[str, typer.Option(help="Robot file of the simulated robot.")] = "desk_sim",
    out: Annotated[str, typer.Option(help="Folder for logs, the event log and the recorded store.")] = "outputs/robot",
    domain_id: Annotated[int, typer.Option(help="ROS domain; -1: one at random.", min=-1, max=232)] = -1,
    view: Annotated[bool, typer.Option("--view", help="Show the desk in MuJoCo's viewer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
) -> None:
    """Let the policy drive the simulated arm in real time, through the gate at the robot's own limits."""
    from foreact.commands.demo import find_checkpoint
    from foreact.commands.robot_processes import Stand
    from foreact.commands.terminate import orderly_end
    from foreact.sim.tasks import TASKS

    if task and task not in TASKS:
        raise ConfigError(f"no task {task!r}; {did_you_mean(task, TASKS)}")
    folder = checkpoint or str(find_checkpoint())
    domain = random.SystemRandom().randrange(60, 100) if domain_id < 0 else domain_id
    target = Path(out) / time.strftime("%Y%m%d-%H%M%S")
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    say(f"starting robot, policy and gate (logs in {target}) ...")
    sim = ("--view",) if view else ()
    with orderly_end(f"what was recorded is in {target}"), Stand(folder, robot, target, domain_id=domain, sim=sim) as s:
        person = open_operator(s)
        try:
            if tries:
                found = _series(s, person, tries, say)
                print(json.dumps(found, indent=2) if as_json else _table(found))
                (target / "results.json").write_text(json.dumps(found, indent=2) + "\n")
            elif instruction or task:
                result = one_try(s, person, task, 0, instruction)
                print(json.dumps(result) if as_json else _sentence(result))
            else:
                _conversation(s, person)
        finally:
            person.close()
    say(f"recorded: {target / 'store'}; look at it with `foreact data view {target / 'store'}`")


def one_try(stand: Stand, person: Operator, task: str, start: int, instruction: str) -> dict[str, Any]:
    """Put the desk at a start of the task (if one is named), arm, say the words, and wait for what becomes of it."""
    from foreact.robot_bridge.config import load_robot

    robot, gate = stand.children["robot"], stand.children["gate"]
    period_s = load_robot(stand.robot).period_s
    person.command("arm", False)
    if task:
        placed = robot.ask({"do": "reset", "task": task, "start": start})
        instruction = instruction or str(placed.get("instruction", ""))
        time.sleep(1.0)  # the arm has jumped, which the watches have to forget
    for child in (robot, gate):
        _forget(child)
    armed, sentence = person.arm(5.0)
    result: dict[str, Any] = {"task": task, "start": start, "instruction": instruction, "success": False}
    if not armed:
        return {**result, "ended": "not armed", "cause": sentence, "seconds": 0.0, "holds": 0}
    began = time.monotonic()
    person.say(instruction)
    holds, ended, cause = 0, "time is up", ""
    while time.monotonic() - began < _STEPS * period_s:
        event = robot.next(0.02)
        if event and event.get("event") == "done" and task:
            result["success"], ended = True, "done"
            break
        said = gate.next(0.0)
        if said and said.get("kind") == "state":
            holds += said["state"] == "hold"
            if said["state"] in ("hold", "fault"):
                cause = str(said.get("cause") or said["message"])
            if said["state"] == "fault":
                ended = "fault"
                break
    seconds = time.monotonic() - began
    person.command("stop")
    time.sleep(0.5)
    person.command("arm", False)
    return {**result, "ended": ended, "cause": cause, "seconds": round(seconds, 2), "holds": holds}


def open_operator(stand: Stand) -> Operator:
    """Somebody at the topics of a stand, who hears its gate."""
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.network import Range, read_network
    from foreact.robot_bridge.operator import Operator

    scope = read_network({"ROS_AUTOMATIC_DISCOVERY_RANGE": str(Range.LOCALHOST)}, domain_id=stand.domain_id)
    person = Operator(load_robot(stand.robot).topic_names(), scope)
    person.open(20.0)
    return person


def _forget(child: Any) -> None:
    while child.next(0.0) is not None:
        pass


def _series(stand: Stand, person: Operator, tries: int, say) -> dict[str, Any]:
    from foreact.sim.language import validation_instruction
    from foreact.sim.tasks import FIXTURE_TASKS
    from foreact.vla.intervals import wilson

    rows: list[dict[str, Any]] = []
    for start in range(tries):
        for task in FIXTURE_TASKS:
            rows.append(one_try(stand, person, task, start, validation_instruction(task)))
            say(f"{len(rows):3} of {tries * len(FIXTURE_TASKS)}: {_sentence(rows[-1])}")
    won = sum(row["success"] for row in rows)
    low, high = wilson(won, len(rows))
    return {
        "checkpoint": stand.served.get("title"),
        "checkpoint_sha256": stand.served.get("checkpoint"),
        "robot": stand.robot,
        "tries": len(rows),
        "successes": won,
        "ci95": [round(low, 4), round(high, 4)],
        "latency": _latency(person),
        "rows": rows,
    }


def _latency(person: Operator) -> dict[str, str]:
    """What the gate's diagnostics say of times."""
    if person.diagnostics is None:
        return {}
    return {
        pair.key: pair.value
        for status in person.diagnostics.status
        for pair in status.values
        if pair.key.endswith(" ms") and status.name.endswith(": policy")
    } | {
        f"loop {pair.key}": pair.value
        for status in person.diagnostics.status
        for pair in status.values
        if status.name.endswith(": loop")
    }


def _sentence(row: dict[str, Any]) -> str:
    how = f"{row['ended']} after {row['seconds']:.0f} s" + (f", {row['holds']} holds" if row["holds"] else "")
    return f"{row['instruction']!r}: {how}" + (f" ({row['cause']})" if row["cause"] else "")


def _table(found: dict[str, Any]) -> str:
    from foreact.sim.tasks import FIXTURE_TASKS

    lines = [f"{found['successes']} of {found['tries']} (95 %: {found['ci95'][0]:.0%} to {found['ci95'][1]:.0%})"]
    for task in FIXTURE_TASKS:
        rows = [row for row in found["rows"] if row["task"] == task]
        lines.append(f"  {task:20} {sum(r['success'] for r in rows)} of {len(rows)}")
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in found["latency"].items())])


def _conversation(stand: Stand, person: Operator) -> None:
    """Ask for words until there are none."""
    if not sys.stdin.isatty():
        raise ForeActError('give an instruction, such as `foreact robot demo "open the drawer" --task open_drawer`')
    from foreact.sim.tasks import TASKS

    print("Type what to do (an empty line ends). `@open_drawer` puts the desk where that task can be done.")
    while text := input("> ").strip():
        if text.startswith("@"):
            if text[1:] not in TASKS:
                print(did_you_mean(text[1:], TASKS))
                continue
            person.command("arm", False)
            print("start: " + json.dumps(stand.children["robot"].ask({"do": "reset", "task": text[1:], "start": 0})))
            continue
        print(_sentence(one_try(stand, person, "", 0, text)))
