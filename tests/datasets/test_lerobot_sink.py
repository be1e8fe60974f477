"""Writing LeRobot datasets: the same bytes whatever happens on the way, and what is refused."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from foreact.datasets.episode import Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_sink import LeRobotSink
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source
from foreact.datasets.formats.lerobot_v3_sink import LeRobotV3Sink
from foreact.datasets.formats.lerobot_v21_sink import LeRobotV21Sink
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.vla.contract import Camera
from foreact.vla.errors import ConfigError

SINKS = {"v3": LeRobotV3Sink, "v21": LeRobotV21Sink}
NAMES = [name for name in (f"run-{n}" for n in range(8)) if make_episode(name).state is not None][:4]


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_all(sink: LeRobotSink) -> None:
    for name in NAMES:
        if not sink.has(name):
            sink.write(name, make_episode(name))
    sink.finish()


# Dies at the given call of fsync, rename or replace: in the middle of an episode, between two, while joining, and
# between the last steps of finish().
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from foreact.datasets.formats.lerobot_v3_sink import LeRobotV3Sink
from foreact.datasets.formats.lerobot_v21_sink import LeRobotV21Sink
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
version, path, last, names = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
lock, calls = threading.Lock(), 0
def deadly(function):
    def call(*arguments, **options):
        global calls
        with lock:
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.fsync, os.rename, os.replace = deadly(os.fsync), deadly(os.rename), deadly(os.replace)
sink = {"v3": LeRobotV3Sink, "v21": LeRobotV21Sink}[version](path, SELFTEST_CONTRACT)
for name in names:
    if not sink.has(name):
        sink.write(name, make_episode(name))
sink.finish()
"""


@pytest.mark.parametrize("version", SINKS)
def test_killed_and_repeated_it_gives_the_same_bytes(version: str, tmp_path: Path) -> None:
    write_all(SINKS[version](tmp_path / "whole", SELFTEST_CONTRACT))
    whole = tree(tmp_path / "whole")
    episodes_found, assembling = set(), 0
    for last in range(2, 80, 7):
        path = tmp_path / f"killed_{last}"
        command = [sys.executable, "-c", DRIVER, version, str(path), str(last), *NAMES]
        done = subprocess.run(command, cwd=Path(__file__).parents[2] / "src", capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not path.exists() or tree(path) == whole
        partial = tmp_path / f"killed_{last}.partial"
        assembling += (partial / "dataset").exists()
        episodes_found.add(len(list((partial / "episodes").glob("[0-9]" * 6))))
        write_all(SINKS[version](path, SELFTEST_CONTRACT))
        assert tree(path) == whole
        assert not partial.exists()
    assert len(episodes_found) >= 4 and assembling >= 1


def test_a_finished_dataset_knows_its_episodes_and_takes_no_more(tmp_path: Path) -> None:
    write_all(LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT, codec="png"))
    before = tree(tmp_path / "out")
    again = LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT, codec="png")
    write_all(again)
    assert tree(tmp_path / "out") == before
    with pytest.raises(FormatError, match="is complete"):
        again.write("another", make_episode("another"))


def test_other_options_do_not_go_on_with_what_is_begun(tmp_path: Path) -> None:
    LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT, codec="png").write("run-0", make_episode("run-0"))
    with pytest.raises(FormatError, match="other options"):
        LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT, codec="av1")


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear reader")
    with pytest.raises(FormatError, match="not a dataset that ForeAct wrote"):
        LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT)


def test_episodes_lie_where_the_metadata_say_when_files_are_full(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contract = SELFTEST_CONTRACT.model_copy(update={"cameras": (Camera(name="front", height=256, width=256),)})
    sink = LeRobotV3Sink(tmp_path / "out", contract, codec="png", data_mb="1")
    episodes = {}
    for n in range(5):
        episode = make_episode(NAMES[0])
        noise = rng.integers(0, 256, (len(episode), 256, 256, 3), dtype=np.uint8)
        episode.images, episode.instruction = {"front": noise}, f"task {n}"
        episodes[f"e{n}"] = episode
        sink.write(f"e{n}", episode)
    sink.finish()
    files = sorted((tmp_path / "out/data/chunk-000").iterdir())
    assert len(files) > 1
    assert all(pq.ParquetFile(file).num_row_groups == len(set(pq.read_table(file)["episode_index"].to_pylist()))
               for file in files)  # fmt: skip
    source = LeRobotV3Source(tmp_path / "out")
    for name, episode in episodes.items():
        np.testing.assert_array_equal(source.read(name).images["front"], episode.images["front"])


def test_info_and_columns_are_those_of_lerobot(tmp_path: Path) -> None:
    write_all(LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT))
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    fixture = Path(__file__).parent / "fixtures/lerobot/v30_video"
    theirs = json.loads((fixture / "meta/info.json").read_text())
    assert set(info) == set(theirs)
    assert {k: v for k, v in info.items() if k.endswith("_path")} == {
        k: v for k, v in theirs.items() if k.endswith("_path")
    }
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert info["features"][key]["dtype"] == theirs["features"][key]["dtype"]
    place = "meta/episodes/chunk-000/file-000.parquet"
    ours, other = (pq.read_schema(root / place) for root in (tmp_path / "out", fixture))
    generic = [name for name in other.names if "/" not in name or name.startswith(("data/", "meta/"))]
    assert set(generic) <= set(ours.names)
    for name in generic:
        assert ours.field(name).type == other.field(name).type or name == "tasks"
    data = "data/chunk-000/file-000.parquet"
    ours, other = (pq.read_schema(root / data) for root in (tmp_path / "out", fixture))
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert ours.field(name).type == other.field(name).type


@pytest.mark.parametrize(
    "options, message",
    [
        ({"codec": "jpeg"}, "videos"),
        ({"codec": "divx"}, "no image codec"),
        ({"language": "latin"}, "language must be one of"),
        ({"data_mb": "0"}, "whole number of MiB"),
        ({"video_mb": "many"}, "whole number of MiB"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT, **options)
    assert not list(tmp_path.iterdir())


def test_what_lerobot_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="whole number"):
        LeRobotV3Sink(tmp_path / "a", SELFTEST_CONTRACT.model_copy(update={"rate_hz": 12.5}))
    odd = SELFTEST_CONTRACT.model_copy(update={"cameras": (Camera(name="front", height=25, width=32),)})
    episode = make_episode(NAMES[0])
    episode.images = {"front": np.zeros((len(episode), 25, 32, 3), np.uint8)}
    with pytest.raises(FormatError, match="codec=png"):
        LeRobotV3Sink(tmp_path / "b", odd).write("e", episode)
    sink = LeRobotV3Sink(tmp_path / "c", SELFTEST_CONTRACT)
    with pytest.raises(FormatError, match="no episode was written"):
        sink.finish()
    sink.write(NAMES[0], make_episode(NAMES[0]))
    without_action = make_episode(NAMES[1])
    without_action.action = None
    with pytest.raises(FormatError, match="no action"):
        sink.write(NAMES[1], without_action)
    short = make_episode(NAMES[1])
    short.images["wrist"] = short.images["wrist"][:-1]
    with pytest.raises(FormatError, match="as many frames"):
        sink.write(NAMES[1], short)
    small = make_episode(NAMES[1])
    small.images["wrist"] = small.images["wrist"][:, 2:]
    with pytest.raises(FormatError, match="camera wrist must be"):
        sink.write(NAMES[1], small)
    infinite = make_episode(NAMES[1])
    infinite.meta["reward"] = float("inf")
    with pytest.raises(FormatError, match="finite numbers"):
        sink.write(NAMES[1], infinite)
    beyond = make_episode(NAMES[1])
    beyond.segments = [Segment(start=0, end=len(beyond) + 1, instruction="too long")]
    with pytest.raises(FormatError, match="does not lie in"):
        sink.write(NAMES[1], beyond)
    with pytest.raises(FormatError, match="written already"):
        sink.write(NAMES[0], make_episode(NAMES[0]))


def test_what_only_some_episodes_have_is_left_out_and_said(tmp_path: Path) -> None:
    sink = LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT)
    sink.write(NAMES[0], make_episode(NAMES[0]))
    more = make_episode(NAMES[1])
    more.extras["force"] = np.zeros((len(more), 3))
    sink.write(NAMES[1], more)
    resumed = LeRobotV3Sink(tmp_path / "out", SELFTEST_CONTRACT)
    assert any("extra force" in note for note in resumed.notes)
    resumed.finish()
    assert "force" not in LeRobotV3Source(tmp_path / "out").read(NAMES[1]).extras
