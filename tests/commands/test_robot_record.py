"""`foreact robot record` and `mend-bag` as commands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from foreact.commands import robot_record
from foreact.datasets.store import Store
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.transport_memory import MemoryLink, MemoryRobotSide, MemoryTransport
from foreact.vla.errors import ForeActError


def app() -> typer.Typer:
    found = typer.Typer()
    found.command()(robot_record.record)
    found.command()(robot_record.mend_bag)
    return found


def test_a_silent_robot_is_said_and_nothing_is_left_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = MemoryLink(load_robot("desk_sim").topic_names())
    monkeypatch.setattr(robot_record, "open_transport", lambda *_: (MemoryTransport(link), []))
    words = ["record", str(tmp_path / "store"), "--bags", str(tmp_path / "bags"), "--seconds", "0.3"]
    result = CliRunner().invoke(app(), words)
    assert isinstance(result.exception, ForeActError) and "nothing was recorded" in str(result.exception)
    assert "no frame was recorded: nothing came on /rgb_static/image_raw, /rgb_gripper/image_raw" in result.stdout
    assert len(Store.open(tmp_path / "store")) == 0


def test_what_a_robot_sends_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import numpy as np

    robot = load_robot("desk_sim")
    link = MemoryLink(robot.topic_names())
    monkeypatch.setattr(robot_record, "open_transport", lambda *_: (MemoryTransport(link), []))
    side, ended = MemoryRobotSide(link), threading.Event()

    def send() -> None:
        while not ended.wait(0.02):
            for camera in robot.contract.cameras:
                side.publish_frame(camera.name, np.zeros((camera.height, camera.width, 3), np.uint8), time.time())
            joints = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.8])
            side.publish_joints(joints, np.zeros(7), 0.08, time.time())

    thread = threading.Thread(target=send)
    side.start(lambda *_: None, lambda *_: None)
    thread.start()
    try:
        result = CliRunner().invoke(
            app(),
            ["record", str(tmp_path / "store"), "--instruction", "wave", "--seconds", "2", "--bags", str(tmp_path)],
        )
    finally:
        ended.set()
        thread.join()
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "store")
    episode = store.read(store.index.names[0])
    assert episode.instruction == "wave" and len(episode) >= 10 and episode.action is None
    assert episode.state is not None and np.allclose(episode.state[:, 7:14], [0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.8])
    bag = next(tmp_path.glob("*/metadata.yaml")).parent
    assert "is whole" in CliRunner().invoke(app(), ["mend-bag", str(bag)]).output
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-100])
    assert "messages kept" in CliRunner().invoke(app(), ["mend-bag", str(bag)]).output
