"""Recording and reading back."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import zarr

import foreact
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.layout import DamagedEpisode, EpisodeExists, InvalidEpisode, NewerFormat, NoStore, StoreError
from foreact.datasets.recorder import Recorder
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.vla.contract import Camera, Contract, ContractMismatch
from foreact.vla.images import resize_frames


@pytest.mark.parametrize("codec", ["raw", "zstd", "png"])
def test_lossless_codecs_give_back_every_bit(tmp_path: Path, codec: str) -> None:
    recorder = Recorder(tmp_path, SELFTEST_CONTRACT, codec=codec)
    for number in range(8):
        recorder.write(make_episode(f"n{number}"))
    store = Store.open(tmp_path)
    assert [info.has_action for info in store.index].count(False) in range(1, 8), "both kinds must be tested"
    assert all(same_episode(store.read(f"n{number}"), make_episode(f"n{number}")) for number in range(8))


def test_zarr_reads_what_we_wrote(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, SELFTEST_CONTRACT, codec="jpeg:quality=90")
    recorder.write(make_episode("n0"))
    ours = Store.open(tmp_path).read("n0")
    group = zarr.open_group(tmp_path / "episodes" / "n0", mode="r")
    np.testing.assert_array_equal(group["state"][:], ours.state)  # pyright: ignore
    np.testing.assert_array_equal(group["extras.scene"][:], ours.extras["scene"])  # pyright: ignore
    assert group.attrs["foreact"]["instruction"] == "do n0"  # pyright: ignore
    assert group.metadata.consolidated_metadata is not None
    index, frames = group["camera.front.index"][:], group["camera.front.frames"][:]  # pyright: ignore
    start, size, _ = (int(n) for n in index[2])  # pyright: ignore
    picture = simplejpeg.decode_jpeg(frames[start : start + size].tobytes())  # pyright: ignore
    np.testing.assert_array_equal(picture, ours.images["front"][2])
    for name, array in group.arrays():
        codecs = [codec.to_dict()["name"] for codec in array.metadata.codecs]  # pyright: ignore
        assert codecs[-1] == "crc32c", f"{name} has no checksum"


def test_arrays_of_zeros_are_stored_and_not_implied(tmp_path: Path, contract: Contract) -> None:
    black = {c.name: np.zeros((4, c.height, c.width, 3), np.uint8) for c in contract.cameras}
    episode = EpisodeData(images=black, state=np.zeros((4, 3), np.float32), action=np.zeros((4, 2), np.float32))
    Recorder(tmp_path, contract, codec="raw").write(episode, "zeros")
    folder = tmp_path / "episodes" / "zeros"
    for array in folder.glob("*/zarr.json"):
        assert any((array.parent / "c").rglob("*")), f"{array.parent.name} has no chunk"
    (folder / "action" / "c" / "0" / "0").unlink()
    with pytest.raises(DamagedEpisode, match=r"episode zeros is damaged.*action/c/0/0.*missing"):
        Store.open(tmp_path).read("zeros")


@pytest.mark.parametrize("frames", [slice(2, 5), np.array([7, 0, 7, 3]), np.array([], np.int64), None])
def test_some_frames_are_those_of_the_whole(store: Store, frames: slice | np.ndarray | None) -> None:
    whole, some = store.read("e0"), store.read("e0", frames)
    at = frames if frames is not None else slice(None)
    for camera in whole.images:
        np.testing.assert_array_equal(some.images[camera], whole.images[camera][at])
    assert whole.state is not None and some.state is not None and some.action is not None
    np.testing.assert_array_equal(some.state, whole.state[at])
    assert whole.images["static"][4, 0, 0, 0] == 4 and whole.state[4, 1] == 4


@pytest.mark.parametrize("codec", ["fast", "small", "av1"])
def test_frames_in_any_order_are_those_of_the_whole_with_lossy_codecs(tmp_path: Path, codec: str) -> None:
    contract = SELFTEST_CONTRACT.model_copy(update={"cameras": (Camera(name="front", height=64, width=80),)})
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 255, (7, 8, 10, 3), np.uint8), 8, 1), 8, 2)
    Recorder(tmp_path, contract, codec=codec).write(EpisodeData(images={"front": frames}), "e")
    store = Store.open(tmp_path)
    whole = store.read("e").images["front"]
    assert np.abs(whole.astype(float) - frames).mean() < 12, "frames are mixed up"
    order = [6, 1, 1, 0, 5, 3]
    np.testing.assert_array_equal(store.read("e", np.array(order)).images["front"], whole[order])
    assert not verify_store(tmp_path, decode=True).problems


def test_resize_is_the_one_that_acting_uses(tmp_path: Path) -> None:
    Recorder(tmp_path, SELFTEST_CONTRACT).write(make_episode("n1"))
    store = Store.open(tmp_path)
    small = store.read("n1", cameras=["front"], resize={"front": (9, 11)})
    assert list(small.images) == ["front"]
    np.testing.assert_array_equal(small.images["front"], resize_frames(store.read("n1").images["front"], 9, 11))


def test_episodes_recorded_frame_by_frame(tmp_path: Path, contract: Contract) -> None:
    recorder = Recorder(tmp_path, contract, codec="zstd")
    with recorder.episode(name="live", instruction="push") as episode:
        for t in range(5):
            images = {c.name: np.full((c.height, c.width, 3), t, np.uint8) for c in contract.cameras}
            episode.add(images=images, state=np.full(3, t), action=np.full(2, -t), extras={"force": np.array([t])})
        episode.meta["task"] = "push"
        episode.segments.append(Segment(start=0, end=5, instruction="push it"))
    with recorder.episode(name="dropped") as episode:
        episode.discard()
    with pytest.raises(KeyboardInterrupt), recorder.episode(name="interrupted") as episode:
        raise KeyboardInterrupt
    store = Store.open(tmp_path)
    assert store.index.names == ["live"]
    read = store.read("live")
    assert read.state is not None and read.state.dtype == np.float32 and read.state[3].tolist() == [3, 3, 3]
    assert read.extras["force"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (read.meta, read.segments) == ({"task": "push"}, [Segment(start=0, end=5, instruction="push it")])


def test_a_name_is_taken_once(tmp_path: Path, contract: Contract, make_episode) -> None:
    recorder = Recorder(tmp_path, contract)
    assert not recorder.has("a")
    assert recorder.write(make_episode(1, 2), name="a") == sum(
        p.stat().st_size for p in (tmp_path / "episodes" / "a").rglob("*") if p.is_file()
    )
    assert Recorder(tmp_path, contract).has("a")
    with pytest.raises(EpisodeExists, match=r"already has an episode 'a'"):
        recorder.write(make_episode(1, 2), name="a")


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".hidden", "", "a" * 121, "a\x00b", "C:\\x", "a\n", "dot."])
def test_hostile_names_are_refused(tmp_path: Path, contract: Contract, make_episode, name: str) -> None:
    recorder = Recorder(tmp_path / "store", contract)
    episode = make_episode(0, 2)
    episode.extras[name or "/"] = np.zeros((2, 1))
    with pytest.raises(InvalidEpisode, match="is not allowed"):
        recorder.write(episode, name="fine")
    if name:
        with pytest.raises(InvalidEpisode, match="is not allowed"):
            recorder.write(make_episode(0, 2), name=name)
    with pytest.raises(InvalidEpisode, match="camera name"):
        Recorder(tmp_path / "other", contract.model_copy(update={"cameras": (Camera(name=name, height=2, width=2),)}))
    assert {p.name for p in tmp_path.iterdir()} == {"store"} and not any((tmp_path / "store/episodes").iterdir())


def _broken(episode: EpisodeData, what: str) -> EpisodeData:
    assert episode.state is not None and episode.action is not None
    if what == "size":
        episode.images["static"] = episode.images["static"][:, :-1]
    elif what == "dtype":
        episode.images["static"] = episode.images["static"].astype(np.float32)
    elif what == "camera":
        episode.images["gripperr"] = episode.images.pop("gripper")
    elif what == "no camera":
        episode.images = {}
    elif what == "nan":
        episode.action[3, 0] = np.nan
    elif what == "state size":
        episode.state = episode.state[:, :2]
    elif what == "lengths":
        episode.state = episode.state[:-1]
    elif what == "objects":
        episode.extras["x"] = np.array([object()] * len(episode))
    elif what == "meta":
        episode.meta["x"] = [1]
    elif what == "meta nan":
        episode.meta["x"] = float("nan")
    elif what == "segment":
        episode.segments = [Segment(start=2, end=99, instruction="")]
    elif what == "instruction":
        episode.instruction = "a" * 600
    return episode


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("size", r"frame 0: camera 'static' must be uint8 \(12, 16, 3\), found uint8 \(11, 16, 3\)"),
        ("dtype", r"found float32"),
        ("camera", r"no camera 'gripperr'.*did you mean 'gripper'"),
        ("no camera", r"no image"),
        ("nan", r"frame 3: action holds a number that is not finite"),
        ("state size", r"state must have shape \(3,\).*found \(2,\)"),
        ("lengths", r"differ in their number of frames"),
        ("objects", r"extra 'x' must be numbers"),
        ("meta", r"meta holds"),
        ("meta nan", r"meta holds"),
        ("segment", r"segment \[2, 99\)"),
        ("instruction", r"512 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, contract, make_episode, what: str, message: str) -> None:
    recorder = Recorder(tmp_path, contract)
    with pytest.raises(InvalidEpisode, match=message):
        recorder.write(_broken(make_episode(1, 5), what), name="bad")
    assert len(Store.open(tmp_path)) == 0 and not any((tmp_path / ".staging").iterdir())


def test_another_contract_is_refused_with_the_difference(tmp_path: Path, contract: Contract) -> None:
    Recorder(tmp_path, contract)
    other = contract.model_copy(update={"rate_hz": 20.0, "cameras": contract.cameras[:1]})
    with pytest.raises(ContractMismatch) as caught:
        Recorder(tmp_path, other)
    assert "rate_hz: 20.0, the store has 10.0" in str(caught.value)
    assert "the store also has 'gripper'" in str(caught.value)


def test_no_store_here(tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="does not exist"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(NoStore, match="has no foreact-store.json"):
        Store.open(tmp_path)


@pytest.mark.parametrize("file", ["foreact-store.json", "episodes/e0/manifest.json"])
def test_a_newer_format_is_named(store: Store, file: str) -> None:
    path = store.path / file
    path.write_bytes(seal(unseal(path.read_bytes()) | {"version": 2}))
    (store.path / "index.bin").unlink()
    with pytest.raises(NewerFormat, match="format version 2; this ForeAct reads versions 1 to 1"):
        Store.open(store.path)


def test_a_damaged_episode_is_left_out_and_named(store: Store) -> None:
    manifest = store.path / "episodes" / "e3" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    (store.path / "index.bin").unlink()
    with pytest.warns(UserWarning, match="episode e3 is damaged.*manifest.json"):
        opened = Store.open(store.path)
    assert opened.index.names == ["e0", "e1", "e2", "e4"] and list(opened.damaged) == ["episodes/e3"]


def test_unknown_episodes_cameras_and_frames_are_named(store: Store) -> None:
    for call, message in (
        (lambda: store.read(5), "has 5 episodes; asked for number 5"),
        (lambda: store.read("e33"), "no episode 'e33'; did you mean 'e3'"),
        (lambda: store.read(0, cameras=["top"]), r"no camera 'top'; it has \['gripper', 'static'\]"),
        (lambda: store.read(0, np.array([9])), "has frames 0 to 8"),
        (lambda: store.read(0, np.array([-1])), "has frames 0 to 8"),
    ):
        with pytest.raises(StoreError, match=message):
            call()


def test_the_index_is_rebuilt_from_the_episodes(store: Store, make_episode, contract: Contract) -> None:
    index = store.path / "index.bin"
    index.write_bytes(b"nonsense")
    assert Store.open(store.path).index == store.index
    stale = index.read_bytes()
    Recorder(store.path, contract, codec="zstd").write(make_episode(7, 4), name="e00")
    index.write_bytes(stale)
    again = Store.open(store.path)
    assert again.index.names == ["e0", "e00", "e1", "e2", "e3", "e4"]
    assert (again.index[1].length, again.index[1].instruction) == (4, "instruction 7")
    assert again.hash != store.hash
    assert same_content(again, "e3", store)


def same_content(a: Store, name: str, b: Store) -> bool:
    return same_episode(a.read(name), b.read(name))


def test_the_index_of_a_read_only_store_is_made_in_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / "index.bin").unlink()

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("foreact.datasets.index.replace_durably", refuse)
    assert Store.open(store.path).index.names == store.index.names
    assert not (store.path / "index.bin").exists()


def test_a_store_travels_to_workers(store: Store) -> None:
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert same_content(copy, "e0", store) and copy.hash == store.hash


_WRITE_SOME = """
import contextlib, pathlib, sys
from foreact.datasets.layout import EpisodeExists
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode

recorder = Recorder(pathlib.Path(sys.argv[1]), SELFTEST_CONTRACT, codec="zstd")
for number in range(3):
    recorder.write(make_episode(f"worker{sys.argv[2]}-{number}"))
    with contextlib.suppress(EpisodeExists):
        recorder.write(make_episode(f"contested-{number}"))
"""


def test_several_processes_write_into_one_store(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(foreact.__file__).parents[1])}
    commands = [[sys.executable, "-c", _WRITE_SOME, str(tmp_path), str(worker)] for worker in range(3)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    store = Store.open(tmp_path)
    assert len(store) == 3 * 3 + 3
    assert all(same_episode(store.read(name), make_episode(name)) for name in store.index.names)


def test_unfinished_writes_of_dead_processes_are_swept(store: Store, contract: Contract) -> None:
    import socket

    staging = store.path / ".staging"
    dead, alive = (staging / f"x~{socket.gethostname()}~{pid}~00" for pid in (2**22 + 1, 1))
    dead.mkdir()
    alive.mkdir()
    Recorder(store.path, contract)
    assert not dead.exists() and alive.exists()


def test_a_seal_notices_every_flipped_bit() -> None:
    sealed = seal({"a": [1, 2.5, "x"], "b": None})
    assert unseal(sealed) == {"a": [1, 2.5, "x"], "b": None} and json.loads(sealed)["b"] is None
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenSeal):
            unseal(bytes(flipped))
    for wrong in (b"", b"{}", sealed[:-1], sealed + b" ", b"x" + sealed):
        with pytest.raises(BrokenSeal):
            unseal(wrong)


def test_nothing_warns_while_recording(tmp_path: Path, contract: Contract, make_episode) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recorder(tmp_path, contract).write(make_episode(0, 2))
        assert len(Store.open(tmp_path)) == 1


def _die_or_fail_at(patch: pytest.MonkeyPatch, fail_at: int, error: BaseException) -> list[str]:
    """Let the change number `fail_at` of the file system, and every later one if it is a kill, raise `error`."""
    log: list[str] = []
    reals = {name: getattr(os, name) for name in ("rename", "fsync", "mkdir", "open", "unlink")}

    def call(name: str, *args, **kwargs):
        log.append(name)
        if len(log) - 1 == fail_at or len(log) - 1 > fail_at and not isinstance(error, OSError):
            raise error
        return reals[name](*args, **kwargs)

    for name in reals:
        patch.setattr(os, name, partial(call, name))
    return log


class Killed(BaseException):
    """Stands for a kill: nothing catches it to go on."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "I/O error"), Killed()])
def test_whatever_operation_fails_the_earlier_episodes_are_safe(tmp_path, contract, make_episode, error) -> None:
    earlier = make_episode(1, 2, video=True)
    for fail_at in range(1000):
        path = tmp_path / str(fail_at)
        recorder = Recorder(path, contract, codec="raw")
        recorder.write(earlier, name="earlier")
        with pytest.MonkeyPatch.context() as patch:
            log = _die_or_fail_at(patch, fail_at, error)
            try:
                recorder.write(make_episode(2, 2, video=True), name="later")
                outcome = "written"
            except (StoreError, Killed) as caught:
                outcome = str(caught)
        store = Store.open(path)
        assert "earlier" in store.index.names and not store.damaged
        np.testing.assert_array_equal(store.read("earlier").images["static"], earlier.images["static"])
        if outcome == "written":
            assert store.index.names == ["earlier", "later"]
        elif isinstance(error, OSError):
            assert str(error.strerror) in outcome and "episode later could not be written" in outcome
        if fail_at >= len(log):
            break
    assert fail_at > 20, "the operations were not seen"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(length=10**12), "has shape"),
        (lambda header: header["cameras"].update(static=[8000, 8000]), "are not those of the store's contract"),
        (lambda header: header["cameras"].update({"../../x": [2, 2]}), "are not those of the store's contract"),
        (lambda header: header.pop("segments"), "not what ForeAct writes"),
        (lambda header: header.update(cameras=7), "not what ForeAct writes"),
    ],
)
def test_an_episode_that_declares_nonsense_is_refused(store: Store, change, message: str) -> None:
    """Its checksums are right: somebody made it so."""
    folder = store.path / "episodes" / "e0"
    group = json.loads((folder / "zarr.json").read_bytes())
    change(group["attributes"]["foreact"])
    data = json.dumps(group).encode()
    (folder / "zarr.json").write_bytes(data)
    manifest = unseal((folder / "manifest.json").read_bytes())
    manifest["files"]["zarr.json"] = [len(data), hashlib.sha256(data).hexdigest()]
    (folder / "manifest.json").write_bytes(seal(manifest))
    with pytest.raises(DamagedEpisode, match=f"episode e0 is damaged.*{message}"):
        Store.open(store.path).read("e0")


def test_a_manifest_cannot_reach_outside_of_its_folder(store: Store) -> None:
    folder = store.path / "episodes" / "e0"
    manifest = unseal((folder / "manifest.json").read_bytes())
    manifest["files"]["../../../secret"] = [3, "0" * 64]
    (folder / "manifest.json").write_bytes(seal(manifest))
    (store.path.parent / "secret").write_bytes(b"abc")
    (problem,) = verify_store(store.path).problems
    assert "../../../secret: missing" in problem
