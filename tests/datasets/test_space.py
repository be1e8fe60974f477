"""Nothing is begun on a disk that has no room for two more episodes."""

from __future__ import annotations

import os
import types
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.convert import Target, convert
from foreact.datasets.formats.registry import Opening
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.datasets.space import NoSpace, check_space, episode_bound, free_bytes
from foreact.datasets.store import Store
from foreact.vla.contract import Camera


def set_free(patch: pytest.MonkeyPatch, free: float, blocks: int = 10**9) -> None:
    """Let every file system have that many bytes left for users; root's reserve is larger and does not count."""
    found = types.SimpleNamespace(f_bavail=int(free) // 512, f_bfree=10**9, f_frsize=512, f_blocks=blocks)
    patch.setattr(os, "statvfs", lambda path: found)


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    here, there = free_bytes(tmp_path), free_bytes(tmp_path / "not" / "yet")
    assert here is not None and there is not None
    assert abs(here - found.f_bavail * found.f_frsize) < 2**30 > abs(there - here)


def test_a_file_system_that_does_not_say_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 0, blocks=0)
    check_space(tmp_path, 1e9, "recording")
    monkeypatch.setattr(os, "statvfs", lambda path: (_ for _ in ()).throw(OSError("no such call")))
    check_space(tmp_path, 1e9, "recording")


def test_recording_needs_room_for_two_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "s", SELFTEST_CONTRACT, "raw")
    bound = episode_bound(SELFTEST_CONTRACT, "raw")
    set_free(monkeypatch, 2 * bound + 512)
    size = recorder.write(make_episode("a"))
    assert size < bound
    set_free(monkeypatch, 2 * size + 512)  # now it is known how large they are
    larger = max((recorder.write(make_episode("b")), size))
    set_free(monkeypatch, 2 * larger - 512)
    with pytest.raises(NoSpace, match=r"recording into .*/s was not begun: its disk has .* MB free, and 2 episodes"):
        recorder.write(make_episode("c"))
    with pytest.raises(NoSpace):  # another process, which has seen no episode yet, asks for 10 s
        Recorder(tmp_path / "s", SELFTEST_CONTRACT, "raw").write(make_episode("c"))
    assert Store.open(tmp_path / "s").index.names == ["a", "b"]
    set_free(monkeypatch, 1e12)
    recorder.write(make_episode("c"))


@pytest.mark.parametrize("name", ["foreact", "robomimic", "mp4", "lerobot-v3"])
def test_conversions_need_room_for_two_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Recorder(tmp_path / "a", SELFTEST_CONTRACT, "zstd").write(make_episode("e0"))
    set_free(monkeypatch, 4096)
    with pytest.raises(NoSpace, match=r"converting into .*/out was not begun"):
        convert(Opening("foreact", tmp_path / "a"), Target(name, tmp_path / "b" / "out"))
    assert not (tmp_path / "b").exists()
    set_free(monkeypatch, 1e12)
    convert(Opening("foreact", tmp_path / "a"), Target(name, tmp_path / "b" / "out"))


@pytest.mark.parametrize(
    ("codec", "grain"), [("raw", 99), ("zstd", 99), ("png", 99), ("jpeg:quality=95", 8), ("fast", 8)]
)
def test_the_bound_holds_for_the_worst_pictures(tmp_path: Path, codec: str, grain: float) -> None:
    """Noise where nothing is lost; with lossy codecs, pictures with more grain than any camera's."""
    contract = SELFTEST_CONTRACT.model_copy(update={"cameras": (Camera(name="front", height=96, width=128),)})
    rng = np.random.default_rng(0)
    length = int(10 * contract.rate_hz)
    smooth = 120 + 80 * np.sin(np.arange(128) / 9)[:, None] * np.cos(np.arange(96) / 7)[:, None, None]
    pixels = np.clip(smooth + rng.normal(0, grain, (length, 96, 128, 3)), 0, 255).astype(np.uint8)
    numbers = rng.normal(size=(length, 5)).astype(np.float32)
    episode = EpisodeData(images={"front": pixels}, state=numbers[:, :3], action=numbers[:, 3:])
    size = Recorder(tmp_path, contract, codec).write(episode, "grainy")
    bound = episode_bound(contract, codec_from_spec(codec).spec)
    assert 0.3 * bound < size < 1.03 * bound, "an episode may be larger than what is asked for, or far smaller"
