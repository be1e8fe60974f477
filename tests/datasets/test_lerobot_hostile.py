"""Broken and hostile LeRobot datasets: one sentence each, no traceback, no file outside, no memory."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreact.datasets.formats import lerobot_arrow, lerobot_footer
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_source import LeRobotSource
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source
from foreact.datasets.formats.lerobot_v21 import LeRobotV21Source
from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ForeActError

FIXTURES = Path(__file__).parent / "fixtures" / "lerobot"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture
def v3(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "v30_video", tmp_path / "set"))


@pytest.fixture
def v3_image(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "v30_image", tmp_path / "set_image"))


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "v21_video", tmp_path / "set21"))


def read_all(path: Path) -> None:
    source: LeRobotSource = (LeRobotV3Source if "set21" not in path.name else LeRobotV21Source)(path)
    for name in source.names():
        source.read(name)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    change(info)
    (path / "meta/info.json").write_text(json.dumps(info))


def edit_column(file: Path, name: str, values: Any) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), file)


def refused(path: Path, *words: str) -> str:
    with pytest.raises(FormatError) as error:
        read_all(path)
    for word in words:
        assert word in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "template",
    [
        "../../{chunk_index}-{file_index}",
        "/etc/passwd",
        "data/../../{file_index:03d}",
        "data\\{file_index}",
        "data/{chunk_index.__class__}",
        "data/{0}",
        "data/{video_key}",
        "data//{file_index}",
        "",
        "C:/x",
    ],
)
def test_paths_stay_in_the_folder(v3: Path, template: str) -> None:
    edit(v3, lambda info: info.update(data_path=template))
    assert "info.json" in refused(v3)


def test_camera_keys_cannot_leave_the_folder(v3: Path) -> None:
    edit(v3, lambda info: info["features"].update({"../../../x": info["features"].pop("observation.images.front")}))
    refused(v3)


def test_links_cannot_leave_the_folder_but_the_cache_of_the_hub_is_read(v3: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.parquet"
    (v3 / DATA).rename(outside)
    (v3 / DATA).symlink_to(outside)
    refused(v3, "link")
    snapshot = tmp_path / "datasets--x" / "snapshots" / "0123"
    shutil.copytree(v3, snapshot, symlinks=True)
    (tmp_path / "datasets--x" / "blobs").mkdir()
    outside.rename(tmp_path / "datasets--x" / "blobs" / "aa")
    (snapshot / DATA).unlink()
    (snapshot / DATA).symlink_to("../../../../blobs/aa")
    read_all(snapshot)


def test_a_pipe_does_not_hang_the_reader(v3: Path) -> None:
    (v3 / DATA).unlink()
    os.mkfifo(v3 / DATA)
    refused(v3, "not an ordinary file")


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda i: i.update(fps=0), "fps"),
        (lambda i: i.update(fps=1e300), "fps"),
        (lambda i: i.update(fps="fast"), "fps"),
        (lambda i: i.update(features=[]), "features"),
        (lambda i: i.update(chunks_size=0), "chunks_size"),
        (lambda i: i.update(total_episodes=10**9), "counts"),
        (lambda i: i.update(codebase_version="v9.0"), "v9.0"),
        (lambda i: i["features"]["observation.images.front"].update(shape=[10**6, 10**6, 3]), "front"),
        (lambda i: i["features"]["observation.images.front"].update(shape=[128, 160, 3]), "64x80"),
        (lambda i: i["features"]["observation.state"].update(shape=[10**9, 10**9]), "observation.state"),
        (lambda i: i["features"]["observation.state"].update(shape=[7]), "observation.state"),
        (lambda i: i["features"]["observation.state"].update(shape=[-3]), "observation.state"),
        (lambda i: i["features"].pop("observation.images.wrist") and i["features"].pop("observation.images.front"),
         "no camera"),
        (lambda i: i["features"].update(ghost={"dtype": "float32", "shape": [2]}), "ghost"),
        (lambda i: i.update(video_path=None), "video_path"),
    ],
)  # fmt: skip
def test_impossible_descriptions_are_refused(v3: Path, change: Callable[[dict[str, Any]], object], word: str) -> None:
    edit(v3, change)
    refused(v3, word)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"codebase_version": "v3.0"}', "[" * 100_000, "\xff"])
def test_broken_info_is_refused_and_not_recognised(v3: Path, text: str) -> None:
    (v3 / "meta/info.json").write_bytes(text.encode("latin-1"))
    refused(v3, "info.json")
    assert not LeRobotV3Source.recognise(v3) and not LeRobotV21Source.recognise(v3)


def test_nothing_is_not_recognised(tmp_path: Path) -> None:
    assert not LeRobotV3Source.recognise(tmp_path / "missing")
    assert not LeRobotV3Source.recognise(tmp_path)


@pytest.mark.parametrize("file", [DATA, EPISODES, VIDEO, "meta/tasks.parquet"])
@pytest.mark.parametrize("how", ["missing", "empty", "half", "noise"])
def test_damaged_files_are_named(v3: Path, file: str, how: str) -> None:
    path = v3 / file
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        noise = np.random.default_rng(0).integers(0, 256, len(data), dtype=np.uint8).tobytes()
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": noise}[how])
    message = refused(v3)
    assert file in message or (how == "missing" and "metadata 0" in message)


@pytest.mark.parametrize("file", ["meta/episodes.jsonl", "meta/tasks.jsonl"])
@pytest.mark.parametrize("text", ["[]\n", "{}\n", "{\n", '{"episode_index": true, "length": 3}\n', "\xff\n"])
def test_broken_lines_of_v21_are_named(v21: Path, file: str, text: str) -> None:
    (v21 / file).write_bytes(text.encode("latin-1"))
    refused(v21, file)


def test_a_playlist_in_disguise_opens_nothing(v3: Path) -> None:
    (v3 / VIDEO).write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    refused(v3, VIDEO)
    (v3 / VIDEO).write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
    refused(v3, VIDEO)


def test_a_video_that_is_too_short_is_noticed(v3: Path) -> None:
    table = pq.read_table(v3 / EPISODES)
    times = table["videos/observation.images.front/from_timestamp"].to_numpy()
    edit_column(v3 / EPISODES, "videos/observation.images.front/from_timestamp", times + 0.2)
    refused(v3, "no frame at", "shorter")


def test_times_between_frames_are_not_rounded_away(v3: Path) -> None:
    times = pq.read_table(v3 / EPISODES)["videos/observation.images.front/from_timestamp"].to_numpy()
    edit_column(v3 / EPISODES, "videos/observation.images.front/from_timestamp", times + 0.5 / 20)
    refused(v3, "no frame at")


@pytest.mark.parametrize(
    "column, value, word",
    [
        ("length", 5, "rows there"),
        ("length", -1, "count"),
        ("length", 10**12, "frames"),
        ("episode_index", 77, "expected episode"),
        ("data/file_index", 9, "file-009"),
        ("data/file_index", -1, "data/file_index"),
        ("data/chunk_index", 1 << 50, "data/chunk_index"),
        ("videos/observation.images.front/from_timestamp", float("nan"), "from_timestamp"),
        ("videos/observation.images.front/from_timestamp", 1e300, "from_timestamp"),
    ],
)
def test_episodes_that_cannot_be_are_refused(v3: Path, column: str, value: float, word: str) -> None:
    values = pq.read_table(v3 / EPISODES)[column].to_pylist()
    edit_column(v3 / EPISODES, column, [*values[:-1], value])
    refused(v3, word)


@pytest.mark.parametrize(
    "column, values, word",
    [
        ("frame_index", [0] * 15, "frame_index"),
        ("timestamp", [float("nan")] * 15, "timestamp"),
        ("timestamp", [1.0] * 15, "timestamp"),
        ("task_index", [99] * 15, "tasks [99]"),
        ("observation.state", [[float("nan")] * 3] * 15, "not finite"),
        ("observation.state", [[0.0] * 3] * 14 + [None], "missing values"),
        ("observation.state", [[0.0] * 3] * 13 + [[0.0] * 2, [0.0] * 4], "differ in length"),
        ("observation.state", ["zero"] * 15, "numbers"),
        ("observation.state", [[0.0] * 2] * 15, "found"),
        ("episode_index", [0.5] * 15, "integers"),
        ("episode_index", [0] * 15, "rows there"),
    ],
)
def test_wrong_columns_are_named(v3: Path, column: str, values: list[Any], word: str) -> None:
    edit_column(v3 / DATA, column, values)
    refused(v3, word)


@pytest.mark.parametrize(
    "cell, word",
    [
        ({"bytes": None, "path": "/etc/passwd"}, "only a name"),
        ({"bytes": b"", "path": None}, "not a PNG"),
        ({"bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "path": None}, "not a PNG"),
        ({"bytes": b"GIF89a" + b"\0" * 50, "path": None}, "not a PNG"),
    ],
)
def test_pictures_that_are_none_are_refused(v3_image: Path, cell: dict[str, Any], word: str) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    edit_column(v3_image / DATA, "observation.images.front", pa.array([cell] * 15, kind))
    refused(v3_image, word)


def test_tiny_files_that_declare_much_take_no_memory(v3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_footer, "MAX_ROWS", 1_000_000)
    monkeypatch.setattr(lerobot_footer, "MAX_CHUNK_VALUES", 4_000_000)
    pq.write_table(pa.table({"episode_index": pa.array(np.zeros(2_000_000, np.int8))}), v3 / DATA)
    assert (v3 / DATA).stat().st_size < 20_000
    assert_takes_no_memory(v3, "2000000 rows")
    same = pa.ListArray.from_arrays([0, 5_000_000], pa.nulls(5_000_000, pa.bool_()))
    pq.write_table(pa.table({"episode_index": same}), v3 / DATA)
    assert (v3 / DATA).stat().st_size < 20_000
    assert_takes_no_memory(v3, "5000000 values")


@pytest.mark.parametrize("characters", [1000, 2_000_000])
def test_a_sentence_repeated_in_a_table_takes_no_memory(
    v3: Path, characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_arrow, "MAX_TABLE_BYTES", 10_000_000)
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * characters]))
    for column in (words, words.dictionary_decode() if characters == 1000 else words):
        pq.write_table(pa.table({"task_index": pa.array(range(20_000)), "task": column}), v3 / "meta/tasks.parquet")
        assert (v3 / "meta/tasks.parquet").stat().st_size < 1_000_000
        assert_takes_no_memory(v3, "unpacks to more than")


def assert_takes_no_memory(path: Path, word: str) -> None:
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    refused(path, word)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 20e6


def test_a_contract_that_does_not_fit_is_refused_line_by_line() -> None:
    wrong = Contract(embodiment="x", rate_hz=5, cameras=(Camera(name="front", height=1, width=2),
                                                         Camera(name="back", height=1, width=2)))  # fmt: skip
    with pytest.raises(FormatError) as error:
        LeRobotV3Source(FIXTURES / "v30_video", wrong)
    for word in ("'back' is not in it", "64x80", "state has 3 numbers", "rate is 20"):
        assert word in str(error.value)


def test_unknown_episodes_get_a_guess() -> None:
    with pytest.raises(FormatError, match="did you mean 'episode_000001'"):
        LeRobotV3Source(FIXTURES / "v30_video").read("episode_00001")


@pytest.mark.parametrize("file", [DATA, EPISODES, VIDEO, "meta/tasks.parquet", "meta/info.json"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wrong_bytes_never_give_anything_but_an_explanation(v3: Path, file: str, data: st.DataObject) -> None:
    original = (FIXTURES / "v30_video" / file).read_bytes()
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    (v3 / file).write_bytes(broken)
    try:
        read_all(v3)
    except ForeActError:
        pass
    finally:
        (v3 / file).write_bytes(original)
