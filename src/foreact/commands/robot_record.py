"""`foreact robot record`: what a robot sees and measures, into a store and a bag, until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreact.commands.robot_run import DOMAIN, ROBOT, TRANSPORT, open_transport
from foreact.commands.terminate import orderly_end
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.robot_bridge.record_session import RobotRecorder
    from foreact.robot_bridge.record_worker import Recorded
    from foreact.robot_bridge.transport import Transport


def record(
    store: Annotated[Path, typer.Argument(help="Trajectory store; made if it is not there.")],
    robot: ROBOT = "desk_sim",
    bags: Annotated[str, typer.Option(help="Folder for MCAP bags; empty: none.")] = "",
    instruction: Annotated[str, typer.Option(help="What is being done, until words come over the topic.")] = "",
    seconds: Annotated[float, typer.Option(help="End after so long; 0: at Ctrl-C.", min=0.0)] = 0.0,
    transport: TRANSPORT = "dds",
    domain_id: DOMAIN = -1,
) -> None:
    """Record a robot that somebody else moves: pictures and state, no actions (those: `foreact robot run --store`)."""
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.observe import Observer
    from foreact.robot_bridge.record_session import RobotRecorder
    from foreact.robot_bridge.record_worker import RecordSettings

    settings = load_robot(robot)
    seen = settings.contract.model_copy(update={"action": ()})
    observer = Observer.of_robot(settings)
    way, _ = open_transport(settings, transport, domain_id)
    recorder = RobotRecorder(
        store,
        seen,
        bags=Path(bags) if bags else None,
        settings=RecordSettings(joints=settings.arm().joints),
        state_of=observer.robot_state,
    )
    recorded = record_until(lambda: way, recorder, instruction=instruction, seconds=seconds)
    for line in summary(recorded):
        print(line)
    if not recorded.episodes:
        raise ForeActError("nothing was recorded")


def record_until(
    make_transport: Callable[[], Transport],
    recorder: RobotRecorder,
    *,
    instruction: str = "",
    seconds: float = 0.0,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Recorded:
    """Listen and record, until `seconds` have passed (0: never) or Ctrl-C; what was recorded is kept.

    Raises:
        ForeActError: If the transport cannot listen, or the store cannot be written.
        SystemExit: With 143 after SIGTERM, once everything is on the disk.
    """
    from foreact.robot_bridge.record_inbox import RecordInbox

    recorded: Recorded | None = None
    try:
        with orderly_end("what was recorded until now is kept"):
            transport = make_transport()
            try:
                transport.start(RecordInbox(recorder, say))
                name = recorder.begin(instruction)
                say(f"recording {name}; Ctrl-C ends it")
                end_s = time.monotonic() + seconds
                while not seconds or time.monotonic() < end_s:
                    time.sleep(0.05)
            finally:
                transport.close()
                if recorder.recording:
                    recorded = recorder.end()
                recorder.close()
    except SystemExit as end:
        if end.code != 130:  # Ctrl-C is how a recording ends
            raise
    if recorded is None:
        raise ForeActError("the recording ended before it began")
    return recorded


def summary(recorded: Recorded) -> list[str]:
    """What became of a recording, in sentences."""
    lines = [f"{len(recorded.episodes)} episodes, {recorded.frames} frames: {', '.join(recorded.episodes) or 'none'}"]
    if recorded.bag is not None:
        lines.append(f"{recorded.bag.path}: {recorded.bag.written.total()} messages, {recorded.bag.bytes:,} bytes")
    dropped = recorded.dropped + (recorded.bag.dropped if recorded.bag else recorded.dropped)
    lines += [f"dropped: {count} messages of {topic}" for topic, count in sorted(dropped.items())]
    return [*lines, *recorded.notices]


def mend_bag(
    folder: Annotated[Path, typer.Argument(help="Of a bag whose recording was cut off: killed, or the disk was full.")],
) -> None:
    """Make a bag whole that was cut off: what was flushed is kept, its index and metadata.yaml are made anew."""
    from foreact.robot_bridge.record_repair import mend_bag as mend

    report = mend(folder)
    if report.whole_before:
        print(f"{folder} is whole: {report.messages} messages")
    else:
        print(f"{folder}: {report.messages} messages kept; {report.lost_bytes:,} bytes behind them were not whole")
