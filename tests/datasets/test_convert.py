"""The engine of conversions: resumable, deterministic, refusing what it did not begin."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.datasets.formats.convert import Target, convert, plan
from foreact.datasets.formats.registry import FORMATS, Opening, available, load, open_sink, recognise
from foreact.datasets.formats.store import StoreSource
from foreact.datasets.layout import INDEX_FILE
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.vla.errors import ConfigError

SRC = Path(__file__).resolve().parents[2] / "src"
WRITTEN = ["foreact", "robomimic", "diffusion-policy", "mp4", "lerobot-v3", "lerobot-v2.1"]
ENDING = {"robomimic": "out.hdf5", "diffusion-policy": "out.zarr.zip"}


def fill(path: Path, episodes: int = 8) -> Path:
    recorder = Recorder(path, SELFTEST_CONTRACT, "zstd")
    for number in range(episodes):
        recorder.write(make_episode(f"e{number:03d}"))
    return path


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files that a conversion leaves, but for caches and what is still being written.

    A worker that outlives its parent by the length of an fsync may leave a folder in `.staging`; the next recorder
    removes it.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX_FILE and ".staging" not in path.parts
    }


def target(folder: Path, name: str, **options: str) -> Target:
    defaults = {"foreact": {"codec": "zstd"}, "diffusion-policy": {"chunk_bytes": "4000"}}.get(name, {})
    return Target(name, folder / ENDING.get(name, "out"), defaults | options)


@pytest.mark.parametrize("workers", [0, 2])
def test_store_to_store_is_equal_in_everything(tmp_path: Path, workers: int) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    report = convert(opening, target(tmp_path / "b", "foreact"), workers=workers)
    a, b = Store.open(tmp_path / "a"), Store.open(tmp_path / "b" / "out")
    assert (report.written, report.skipped, report.frames) == (8, 0, int(sum(a.index.lengths)))
    assert a.hash == b.hash
    assert all(same_episode(a.read(n), b.read(n)) for n in a.index.names)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_conversion_gives_the_same_bytes_wherever_it_is(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "a")
    (tmp_path / "moved").mkdir()
    first = convert(Opening("foreact", tmp_path / "a"), target(tmp_path / "one", name))
    (tmp_path / "a").rename(tmp_path / "moved" / "a")
    second = convert(Opening("foreact", tmp_path / "moved" / "a"), target(tmp_path / "two", name))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert first.written == second.written > 0
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_second_run_changes_nothing(tmp_path: Path, name: str) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    convert(opening, target(tmp_path / "b", name))
    before = tree(tmp_path / "b")
    report = convert(opening, target(tmp_path / "b", name))
    assert report.written == 0 and report.skipped == 8
    assert tree(tmp_path / "b") == before


@pytest.mark.parametrize("name", WRITTEN)
def test_another_source_is_refused_and_the_output_untouched(tmp_path: Path, name: str) -> None:
    convert(Opening("foreact", fill(tmp_path / "a")), target(tmp_path / "b", name))
    before = tree(tmp_path / "b")
    other = Recorder(tmp_path / "c", SELFTEST_CONTRACT, "zstd")
    for number in range(8):
        episode = make_episode(f"e{number:03d}")
        episode.images["front"] = 255 - episode.images["front"]  # the same names, other contents
        other.write(episode)
    with pytest.raises(FormatError, match=r"begun by another conversion(.|\n)*first_episode"):
        convert(Opening("foreact", tmp_path / "c"), target(tmp_path / "b", name))
    assert tree(tmp_path / "b") == before


def test_what_no_conversion_has_begun_is_not_touched(tmp_path: Path) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    fill(tmp_path / "b" / "out")
    with pytest.raises(FormatError, match="was not begun by a conversion"):
        convert(opening, target(tmp_path / "b", "foreact"))


def test_options_are_part_of_the_identity(tmp_path: Path) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    convert(opening, target(tmp_path / "b", "mp4", crf="20"))
    with pytest.raises(FormatError, match="options.crf: '20' there, '30' now"):
        convert(opening, target(tmp_path / "b", "mp4", crf="30"))


def test_a_store_grows_by_more_episodes_of_the_same_source(tmp_path: Path) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    assert convert(opening, target(tmp_path / "b", "foreact"), episodes=3).written == 3
    report = convert(opening, target(tmp_path / "b", "foreact"))
    assert (report.written, report.skipped) == (5, 3)


def test_a_deleted_output_may_be_made_anew_from_something_else(tmp_path: Path) -> None:
    convert(Opening("foreact", fill(tmp_path / "a")), target(tmp_path / "b", "robomimic"))
    (tmp_path / "b" / "out.hdf5").unlink()
    assert convert(Opening("foreact", fill(tmp_path / "c", 3)), target(tmp_path / "b", "robomimic")).episodes == 3


def test_damaged_episodes_stop_or_are_listed(tmp_path: Path) -> None:
    opening = Opening("foreact", fill(tmp_path / "a"))
    file = tmp_path / "a" / "episodes" / "e003" / "camera.front.frames" / "c" / "0"
    data = bytearray(file.read_bytes())
    data[40] ^= 4
    file.write_bytes(bytes(data))
    with pytest.raises(Exception, match="e003 is damaged"):
        convert(opening, target(tmp_path / "b", "foreact"))
    for workers in (0, 2):
        report = convert(opening, target(tmp_path / f"c{workers}", "foreact"), skip_damaged=True, workers=workers)
        assert list(report.failed) == ["e003"] and report.written == 7


def test_plan_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    before = tree(tmp_path)
    found = plan(Opening("foreact", tmp_path / "a"), "foreact", codec="raw")
    store = Store.open(tmp_path / "a")
    assert (found.episodes, found.frames) == (8, int(sum(store.index.lengths)))
    assert found.contract == SELFTEST_CONTRACT
    assert found.bytes is not None and found.frames is not None
    pixels = found.frames * (24 * 32 + 16 * 16) * 3
    assert pixels < found.bytes < 1.3 * pixels
    assert tree(tmp_path) == before


def test_formats_are_recognised_by_their_files(tmp_path: Path) -> None:
    opening = Opening("foreact", fill(tmp_path / "a", 3))
    for name in ("foreact", "robomimic", "diffusion-policy"):
        goal = target(tmp_path / name, name)
        convert(opening, goal)
        assert recognise(goal.path) == name
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FormatError, match=r"of no known format(.|\n)*calvin: ep_start_end_ids.npy"):
        recognise(tmp_path / "nothing")
    with pytest.raises(FormatError, match="there is nothing at"):
        recognise(tmp_path / "absent")
    (tmp_path / "a" / "ep_start_end_ids.npy").write_bytes(b"")
    with pytest.raises(FormatError, match="could be foreact or calvin; say which by --format"):
        recognise(tmp_path / "a")


def test_every_format_of_the_table_has_what_the_protocols_ask_for(tmp_path: Path) -> None:
    names = [spec.name for spec in FORMATS]
    assert len(set(names)) == len(names)
    for spec in FORMATS:
        for where in (spec.source, spec.sink):
            if where and available(where):
                cls = load(where)
                assert cls.format == spec.name
                assert all(isinstance(v, str) for v in getattr(cls, "OPTIONS", {}).values())
        if spec.source and available(spec.source):
            assert load(spec.source).recognise(tmp_path) is False
    assert isinstance(StoreSource(fill(tmp_path / "a", 2)), Source)
    assert isinstance(open_sink("mp4", tmp_path / "m", SELFTEST_CONTRACT, {}), Sink)


def test_unknown_formats_and_options_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    with pytest.raises(ConfigError, match="did you mean 'robomimic'"):
        Opening("robomimc", tmp_path / "a").open()
    with pytest.raises(ConfigError, match="only written, not read"):
        Opening("mp4", tmp_path / "a").open()
    with pytest.raises(ConfigError, match="only read, not written"):
        open_sink("calvin", tmp_path / "b", SELFTEST_CONTRACT, {})
    with pytest.raises(ConfigError, match="takes no option 'crff'.*did you mean 'crf'"):
        open_sink("mp4", tmp_path / "b", SELFTEST_CONTRACT, {"crff": "3"})


def test_mp4_holds_frames_numbers_and_language(tmp_path: Path) -> None:
    import av

    convert(Opening("foreact", fill(tmp_path / "a", 3)), target(tmp_path / "b", "mp4", crf="1"))
    store = Store.open(tmp_path / "a")
    for name in store.index.names:
        episode = store.read(name)
        found = json.loads((tmp_path / "b/out/episodes" / f"{name}.json").read_text())
        assert found["instruction"] == episode.instruction and found["meta"] == episode.meta
        assert found["rate_hz"] == 10
        assert (found["state"] is None) == (episode.state is None)
        if episode.state is not None:
            np.testing.assert_array_equal(np.array(found["state"], np.float32), episode.state)
        np.testing.assert_array_equal(np.array(found["extras"]["scene"]), episode.extras["scene"])
        with av.open(str(tmp_path / "b/out/videos" / name / "front.mp4")) as video:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)])
            assert float(video.streams.video[0].average_rate or 0) == 10
        assert frames.shape == episode.images["front"].shape
        assert np.abs(frames.astype(int) - episode.images["front"]).mean() < 10  # noise, in 4:2:0


def run_conversion(source: Path, goal: Target, kill_at: int = 0) -> int:
    """Exit status of a process that converts; with `kill_at` it dies at so many-th fsync or rename."""
    code = """
import json, os, signal, sys
from pathlib import Path
from foreact.datasets.formats.convert import Target, convert
from foreact.datasets.formats.registry import Opening

source, name, path, options, kill_at = sys.argv[1:]
left = int(kill_at)
def counting(true):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(*args, **kwargs)
    return call
for attribute in ("fsync", "rename", "replace"):
    setattr(os, attribute, counting(getattr(os, attribute)))
convert(Opening("foreact", Path(source)), Target(name, Path(path), json.loads(options)))
"""
    arguments = [str(source), goal.format, str(goal.path), json.dumps(dict(goal.options)), str(kill_at)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": str(SRC)}, check=False, timeout=120
    )
    return done.returncode


@pytest.mark.parametrize("name", WRITTEN)
def test_killed_conversions_end_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = fill(tmp_path / "a", 5)
    convert(Opening("foreact", source), target(tmp_path / "whole", name))
    expected = tree(tmp_path / "whole")
    goal = target(tmp_path / "killed", name)
    # Each run goes further than the one before, and dies at another kind of place.
    statuses = [run_conversion(source, goal, kill_at) for kill_at in (3, 8, 13, 17)]
    assert -signal.SIGKILL in statuses[:2]
    convert(Opening("foreact", source), goal)
    assert tree(tmp_path / "killed") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_fifty_conversions_killed_at_random_end_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = fill(tmp_path / "a", 12)
    workers = "2" if name == "foreact" else "0"
    convert(Opening("foreact", source), target(tmp_path / "whole", name))
    expected = tree(tmp_path / "whole")
    rng = np.random.default_rng(7)
    killed = 0
    for trial in range(50):
        goal = target(tmp_path / f"t{trial}", name)
        options = [word for key, value in goal.options.items() for word in ("--set", f"{key}={value}")]
        command = [
            sys.executable, "-m", "foreact.commands.main", "data", "convert", str(source), str(goal.path), "--to", name,
            "--workers", workers, *options,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(SRC)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.4, 2.5))
        process.kill()
        killed += process.wait() != 0
        convert(Opening("foreact", source), goal)
        assert tree(tmp_path / f"t{trial}") == expected, trial
    assert killed >= 20


def test_the_command_converts_plans_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foreact.commands.main import app, run

    fill(tmp_path / "a", 3)
    source, goal = str(tmp_path / "a"), str(tmp_path / "b.hdf5")

    def foreact(*words: str) -> tuple[int, str, str]:
        status = run(app, ["data", "convert", *words])
        out, err = capsys.readouterr()
        return status, out, err

    status, out, _ = foreact("--formats")
    assert status == 0 and "robomimic: robomimic HDF5 (in, out)" in out and "--set split=" in out
    status, out, _ = foreact(source, goal, "--dry-run", "--json")
    assert status == 0 and json.loads(out)["episodes"] == 3 and not Path(goal).exists()
    status, out, _ = foreact(source, goal, "--json")
    assert status == 0 and json.loads(out)["target"] == "robomimic" and Path(goal).is_file()
    status, out, _ = foreact(goal, str(tmp_path / "c"), "--codec", "zstd")
    assert status == 0 and "episodes" in out
    assert len(Store.open(tmp_path / "c")) == json.loads(foreact(source, goal, "--json")[1])["episodes"] - sum(
        make_episode(f"e{n:03d}").action is None for n in range(3)
    )
    for words, message in (
        ((source, str(tmp_path / "d")), "say which by --to"),
        ((source, goal, "--set", "speed=2"), "'speed': no such option; known: compress, next_obs"),
        ((source, goal, "--set", "speed"), "expected KEY=VALUE"),
        ((source, str(tmp_path / "d"), "--to", "mp4", "--codec", "fast"), "--codec is for stores"),
    ):
        status, _, err = foreact(*words)
        assert status == 2 and message in err, err


def test_episode_with_wrong_contents_is_named(tmp_path: Path) -> None:
    from foreact.datasets.formats.store import StoreSink

    sink = StoreSink(tmp_path / "s", SELFTEST_CONTRACT, "zstd")
    with pytest.raises(Exception, match="e1.*must be uint8"):
        sink.write("e1", EpisodeData(images={"front": np.zeros((2, 3, 3, 3), np.uint8)}))
