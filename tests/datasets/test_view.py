"""`foreact data view`: one page that is whole, needs nothing from outside, and trusts nothing that is in the store."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import av.container
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from foreact.commands.data import app
from foreact.datasets import view as view_module
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.datasets.view import write_page
from foreact.datasets.view_plots import HEIGHT, WIDTH, plots
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

_VOID = {"meta", "img", "br", "rect", "polyline"}
_EVIL = "<script>alert(1)</script>\"'&lt;"


class Page(HTMLParser):
    """Elements, their attributes and text; fails on elements that are closed in another order than opened."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page_of(store: Store, tmp_path: Path, **options) -> Page:
    path = tmp_path / "page.html"
    size = write_page(store, path, **options)
    assert path.stat().st_size == size
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def segmented(contract: Contract, tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    length = 40
    pixels = rng.integers(20, 230, (length, 12, 16, 3), dtype=np.uint8)
    pixels[10:14] = 0
    episode = EpisodeData(
        images={"static": pixels, "gripper": rng.integers(20, 230, (length, 8, 8, 3), dtype=np.uint8)},
        state=np.cumsum(0.01 * rng.standard_normal((length, 3)), 0).astype(np.float32),
        action=(0.01 * rng.standard_normal((length, 2))).astype(np.float32),
        instruction=_EVIL,
        segments=[Segment(start=0, end=20, instruction=_EVIL), Segment(start=20, end=40, instruction="close it")],
        meta={"task": _EVIL, "note": "x" * 500},
    )
    Recorder(tmp_path / "evil", contract, "raw").write(episode, name="e0")
    return Store.open(tmp_path / "evil")


def test_everything_is_there_and_nothing_comes_from_outside(store: Store, tmp_path: Path) -> None:
    page = page_of(store, tmp_path)
    assert len(page.all("section")) == 6  # five episodes and the contract
    for tag, attributes in page.found:
        for key in ("src", "href", "data", "srcset", "action", "poster"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
        assert not [key for key in attributes if key.startswith("on")]
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy
    assert len(page.all("img")) == 10 and len(page.all("video")) == 5
    assert "31 frames" in page.text and "instruction 3" in page.text and store.hash in page.text
    # Four episodes have numbers: two fields of state and one of action each.
    assert len(page.all("svg")) == 4 * 3 and len(page.all("polyline")) == 4 * 5
    assert page.text.count("[rad]") == 8


def test_pictures_and_videos_are_what_was_recorded(segmented: Store, tmp_path: Path) -> None:
    page = page_of(segmented, tmp_path)
    source = page.all("video")[0]["src"]
    assert source is not None and source.startswith("data:video/mp4;base64,")
    with av.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as video:
        assert isinstance(video, av.container.InputContainer)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 40
    static = page.all("img")[0]
    assert static["src"] is not None
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(static["src"].split(",")[1]))))
    assert strip.shape == (96, 8 * 128, 3)
    # The strip shows frames 0, 6, 11, 17, ...; of these only frame 11 is black.
    tiles = strip.reshape(96, 8, 128, 3).mean((0, 2, 3))
    assert tiles[2] < 5 and np.delete(tiles, 2).min() > 80
    cell = frames[11][60:240, 10:190]
    assert cell.mean() < 40 < frames[0][60:240, 10:190].mean()


def test_what_the_store_says_is_text_and_never_markup(segmented: Store, tmp_path: Path) -> None:
    page = page_of(segmented, tmp_path)
    assert page.all("script") == [] and page.text.count(_EVIL) >= 3
    assert "x" * 80 in page.text and "x" * 81 not in page.text


def test_findings_stand_beside_the_episode_and_in_its_curves(segmented: Store, tmp_path: Path) -> None:
    page = page_of(segmented, tmp_path)
    assert "error: black-frames, frames 10 to 13: camera 'static' shows black" in page.text
    marks = [a for a in page.all("rect") if a.get("class") == "error"]
    assert len(marks) == 3 and all(float(m["x"] or 0) == pytest.approx(10 * WIDTH / 39, abs=0.1) for m in marks)
    bands = [a for a in page.all("rect") if a.get("class") == "band"]
    assert len(bands) == 3 and all(float(b["width"] or 0) == pytest.approx(20 * WIDTH / 39, abs=0.1) for b in bands)


def test_few_episodes_and_no_room_for_videos(store: Store, tmp_path: Path) -> None:
    page = page_of(store, tmp_path, episodes=2, max_video_bytes=0)
    assert len(page.all("section")) == 3 and page.all("video") == [] and len(page.all("img")) == 4
    assert "first 2 episodes are shown" in page.text and "no room left" in page.text


def test_a_page_about_many_episodes_stays_within_its_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page_of(store, tmp_path)
    stills = [sum(len(a["src"] or "") for a in whole.all("img")[2 * n : 2 * n + 2]) for n in range(5)]
    videos = [len(a["src"] or "") for a in whole.all("video")]
    curves = sum(len(a["points"] or "") for a in whole.all("polyline"))
    encoded: list[str] = []
    encode = view_module._video
    monkeypatch.setattr(
        view_module, "_video", lambda reader, info, rate: (encoded.append(info.name), encode(reader, info, rate))[1]
    )
    monkeypatch.setattr(view_module, "MAX_STILL_BYTES", sum(stills[:3]) + curves)
    page = page_of(store, tmp_path, max_video_bytes=sum(videos[:2]) + 1)
    assert len(page.all("section")) == 6 and len(page.all("video")) == 2
    assert encoded == ["e0", "e1", "e2"]  # the third shows that there is no room; the others are not even made
    assert 6 <= len(page.all("img")) < 10 and page.text.count("no room left for its pictures") in (1, 2)
    assert sum(len(a["src"] or "") for a in page.all("video")) <= sum(videos[:2])
    assert "instruction 4" in page.text


def test_a_damaged_episode_is_named_and_the_others_shown(store: Store, tmp_path: Path) -> None:
    chunk = store.path / "episodes/e0/state/c/0/0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    page = page_of(Store.open(store.path), tmp_path)
    assert len(page.all("section")) == 5 and "error: damaged in e0" in page.text


def test_curves_keep_their_peaks(contract: Contract) -> None:
    state = np.zeros((5000, 3), np.float32)
    state[3333, 1] = 7
    joints, gripper = plots(contract, state, None)
    assert (joints.low, joints.high, joints.unit) == (0, 7, "rad") and len(joints.curves) == 2
    points = np.array([[float(n) for n in p.split(",")] for p in joints.curves[1].split()])
    assert len(points) <= 302 and (np.diff(points[:, 0]) > 0).all()
    top = points[points[:, 1].argmin()]
    assert top[1] == pytest.approx(3) and top[0] == pytest.approx(3333 * WIDTH / 4999, abs=0.1)
    assert gripper.curves[0].startswith(f"0.0,{HEIGHT - 3:.1f}")


def test_the_command(store: Store, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["view", str(store.path), "--episodes", "1"])
    assert done.exit_code == 0 and re.search(r"store-view\.html: 1 episodes, 0\.\d\d MB", done.output)
    assert (tmp_path / "store-view.html").is_file()
    inside = runner.invoke(app, ["view", str(store.path), "--out", str(store.path / "page.html")])
    assert isinstance(inside.exception, ConfigError) and "lies in the store" in str(inside.exception)


def test_rerun_is_optional(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foreact.datasets.view_rerun import NoRerun, write_rerun

    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(NoRerun, match="pip install rerun-sdk"):
        write_rerun(store, tmp_path / "x.rrd")
    assert not (tmp_path / "x.rrd").exists()


def test_a_rerun_recording_is_written(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs the rerun viewer: pip install '.[view]'")
    from foreact.datasets.view_rerun import write_rerun

    path = tmp_path / "x.rrd"
    assert write_rerun(store, path, episodes=3) == 16
    data = path.read_bytes()
    assert data[:4] == b"RRF2" and b"e2/static" in data and b"e3/static" not in data
