"""Packed stores in an S3-compatible storage: a server on this machine's loopback address, nothing else is reached."""

from __future__ import annotations

import http.client
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.datasets.layout import INDEX_FILE, DamagedEpisode, NoStore, StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.remote import RemoteFiles, as_url
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ConfigError

obstore = pytest.importorskip("obstore", reason="needs obstore: pip install '.[s3]'")
moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="needs an S3 server: pip install 'moto[server]'")
serving = pytest.importorskip("werkzeug.serving", reason="needs an S3 server: pip install 'moto[server]'")
BUCKET = "robot-data"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Server:
    """moto's S3 on a free port, with a count of what is asked of it."""

    def __init__(self) -> None:
        application = moto.DomainDispatcherApplication(moto.create_backend_app)
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, range) of each."""
        self.sent = 0
        """Bytes in answers."""
        self.delay_s = 0.0

        def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")))
            time.sleep(self.delay_s)
            body = b"".join(application(environ, start))
            self.sent += len(body)
            return [body]

        self._server = serving.make_server("127.0.0.1", 0, counted, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.02)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        self.requests, self.sent = [], 0


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("PUT", f"/{BUCKET}")
    assert connection.getresponse().status == 200
    connection.close()
    yield server
    server.stop()
    thread.join(10)


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for key, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": _server.url}).items():
        monkeypatch.setenv(key, value)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    _server.delay_s = 0.0
    _server.forget()
    return _server


def upload(store: Path, server: Server, prefix: str, *skip: str) -> str:
    """By a tool that is not ForeAct's; the URL."""
    target = obstore.store.S3Store(BUCKET, endpoint=server.url, client_options={"allow_http": True})
    for file in sorted(p for p in store.rglob("*") if p.is_file()):
        inside = file.relative_to(store).as_posix()
        if not inside.startswith(skip):
            obstore.put(target, f"{prefix}/{inside}", file.read_bytes())
    server.forget()
    return f"s3://{BUCKET}/{prefix}"


@pytest.fixture
def packed(store: Store) -> Store:
    pack_store(store.path)
    return Store.open(store.path)


@pytest.mark.parametrize("with_index", [True, False])
def test_it_is_the_same_store(packed: Store, server: Server, with_index: bool) -> None:
    url = upload(packed.path, server, f"same-{with_index}", *([] if with_index else [INDEX_FILE]))
    far = Store.open(url)
    assert (far.index, far.hash, far.contract) == (packed.index, packed.hash, packed.contract)
    assert not far.damaged and far.address == url and url in repr(far.reader(0)._where)
    for name in packed.index.names:
        a, b = far.read(name), packed.read(name)
        assert all(np.array_equal(a.images[c], b.images[c]) for c in b.images)
        for x, y in ((a.state, b.state), (a.action, b.action)):
            assert x is y is None or np.array_equal(x, y)  # pyright: ignore[reportArgumentType]
        assert (a.meta, a.instruction) == (b.meta, b.instruction)
    assert {method for method, _, _ in server.requests} == {"GET"}, "nothing is written"
    again = Store.open(far.path)  # a path, which has lost one slash of the URL
    assert again.address == url and len(again) == 5


def test_windows_are_those_of_the_folder(packed: Store, server: Server) -> None:
    far = Store.open(upload(packed.path, server, "windows"))
    spec = WindowSpec(cameras={"static": (6, 8)}, history=2, foresight_steps=2, chunk=3)
    near_batch, far_batch = (
        WindowSampler(s, spec, seed=3, batch_size=8, cache=c).batch_at(5)  # pyright: ignore[reportArgumentType]
        for s, c in ((packed, "memory"), (far, "none"))
    )
    assert np.array_equal(near_batch.images["static"], far_batch.images["static"])
    assert np.array_equal(near_batch.action, far_batch.action) and near_batch.instruction == far_batch.instruction
    travelled = pickle.loads(pickle.dumps(far))  # noqa: S301 - as for a worker process
    assert np.array_equal(travelled.read("e3").state, packed.read("e3").state)  # pyright: ignore[reportArgumentType]


def test_decoded_frames_are_kept_in_a_folder_of_ones_own(packed: Store, server: Server, tmp_path: Path) -> None:
    far = Store.open(upload(packed.path, server, "kept"))
    spec = WindowSpec(cameras={"static": (6, 8)}, history=2, foresight_steps=2, chunk=3)
    with pytest.raises(ConfigError, match=r"is not on this machine.*data\.cache_folder"):
        WindowSampler(far, spec, seed=3, batch_size=8, cache="disk")
    sampler = WindowSampler(far, spec, seed=3, batch_size=8, cache="disk", cache_folder=tmp_path / "kept")
    server.forget()
    batch, near = (s.batch_at(5) for s in (sampler, WindowSampler(packed, spec, seed=3, batch_size=8)))
    assert np.array_equal(batch.images["static"], near.images["static"]) and np.array_equal(batch.state, near.state)
    assert not server.requests, "all is here"


def test_a_window_costs_its_own_bytes(tmp_path: Path, server: Server) -> None:
    """Frames of noise, 12 KB each: 600 of them are 7 MB, and six neighbours about 100 KB."""
    contract = Contract(embodiment="camera", rate_hz=10, cameras=(Camera(name="top", height=64, width=64),))
    noise = np.random.default_rng(0).integers(0, 256, (600, 64, 64, 3), np.uint8)
    with Recorder(tmp_path / "s", contract, codec="zstd").episode(name="long") as episode:
        for frame in noise:
            episode.add(images={"top": frame})
    pack_store(tmp_path / "s")
    url = upload(tmp_path / "s", server, "long")
    store = Store.open(url)
    # root, packs, episodes, index: however many episodes there are
    assert len(server.requests) == 4
    size = store.index[0].bytes
    assert size > 7_000_000
    server.forget()
    found = store.read(0, frames=slice(300, 306)).images["top"]
    assert np.array_equal(found, noise[300:306])
    ranges = [asked for _, _, asked in server.requests]
    assert len(ranges) == 2 and all(ranges), "the end of the run, with all that is small, and the six frames"
    assert server.sent < 200_000 < size / 30
    server.forget()
    assert np.array_equal(store.read(0, frames=np.array([599, 0, 1])).images["top"], noise[[599, 0, 1]])
    assert len(server.requests) <= 2 and server.sent < 120_000, "two stretches; the last frame may be known already"


def test_what_is_not_there_is_named(packed: Store, server: Server) -> None:
    url = upload(packed.path, server, "errors")
    with pytest.raises(NoStore, match=f"no trajectory store here: s3://{BUCKET}/nowhere has no foreact-store.json"):
        Store.open(f"s3://{BUCKET}/nowhere")
    with pytest.raises(StoreError, match="s3://no-such-bucket/x.*(?i:bucket)"):
        Store.open("s3://no-such-bucket/x")
    with pytest.raises(StoreError, match="no episode 'e33'; did you mean 'e3'"):
        Store.open(url).read("e33")


def test_a_refusal_is_explained(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in CREDENTIALS:
        monkeypatch.delenv(key, raising=False)
    with socket.socket() as closed:  # where credentials of a cloud machine are asked for: nobody answers here
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        files = RemoteFiles.at(f"s3://{BUCKET}/x", timeout_s=3, region="us-east-1")
        with pytest.raises(StoreError, match=f"s3://{BUCKET}/x/.*could not be read.*AWS_ACCESS_KEY_ID"):
            Store.open(files)


def test_a_storage_that_does_not_answer_is_an_error(server: Server, packed: Store) -> None:
    url = upload(packed.path, server, "slow")
    server.delay_s = 3.0
    start = time.monotonic()
    with pytest.raises(StoreError, match=f"{url}/foreact-store.json.*(?s:.*)Check the bucket's name, the network"):
        Store.open(RemoteFiles.at(url, timeout_s=0.5))
    assert time.monotonic() - start < 8
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = RemoteFiles.at(url, timeout_s=1, endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(StoreError, match="could not be read"):
            Store.open(gone)


def test_damage_is_seen(packed: Store, server: Server, tmp_path: Path) -> None:
    pack = next((packed.path / "packs").iterdir()) / "episodes.zip"
    data = bytearray(pack.read_bytes())
    info = packed.index[3]
    frames = data.index(b"e3/camera.static.frames/c/0", info.offset) + len(b"e3/camera.static.frames/c/0")
    for number, (at, message) in enumerate(
        (
            (frames + 1, "e3.*crc32c of frame 0 is wrong"),
            (info.offset + info.span - 5, "episode e3 in .* is damaged"),
            (data.rindex(b"e3/zarr.json", 0, info.offset + info.span) + 20, "e3.*zarr.json: its SHA-256"),
        )
    ):
        changed = bytearray(data)
        changed[at] ^= 1
        pack.write_bytes(changed)
        url = upload(packed.path, server, f"damage-{number}")
        with pytest.raises(DamagedEpisode, match=message):
            Store.open(url).read("e3")
        assert len(Store.open(url).read("e0")) == 9
    pack.write_bytes(data[: info.offset + 100])
    far = Store.open(upload(packed.path, server, "cut"))
    with pytest.raises(StoreError, match="episodes.zip"):
        far.read("e4")


def test_episodes_that_are_not_packed_are_named(packed: Store, server: Server, make_episode, contract) -> None:
    Recorder(packed.path, contract, codec="zstd").write(make_episode(9, 2), name="e9")
    Store.open(packed.path)  # its index knows e9
    with pytest.warns(UserWarning, match="1 episodes that are not packed; run `foreact data pack`"):
        far = Store.open(upload(packed.path, server, "loose"))
    assert far.index.names == packed.index.names and list(far.damaged) == ["episodes"]


def test_another_zarr_store_will_do(packed: Store) -> None:
    """`RemoteFiles` takes whatever has Zarr's store interface: here a folder behind it."""
    from zarr.storage import LocalStore

    far = Store.open(RemoteFiles(LocalStore(packed.path, read_only=True), "here"))
    assert (far.index, far.hash) == (packed.index, packed.hash)
    assert np.array_equal(far.read("e3").images["static"], packed.read("e3").images["static"])


def test_a_damaged_pack_manifest_leaves_its_pack_out(tmp_path: Path) -> None:
    from zarr.storage import LocalStore

    path = tmp_path / "store"
    recorder = Recorder(path, SELFTEST_CONTRACT)
    for name in ("a", "b"):
        recorder.write(make_episode(name), name=name)
        pack_store(path)
    first = sorted((path / "packs").iterdir())[0] / "manifest.json"
    first.write_bytes(first.read_bytes()[:-3])
    (path / INDEX_FILE).unlink()
    with pytest.warns(UserWarning, match="manifest.json is damaged"):
        far = Store.open(RemoteFiles(LocalStore(path, read_only=True), "here"))
    assert far.index.names == ["b"] and verify_store(path).problems


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("gs://bucket", "gs://bucket"),
        ("data/s3", None),
        ("s3:", None),
        ("/s3:/x", None),
    ],
)
def test_addresses(text: str | Path, url: str | None) -> None:
    assert as_url(text) == url


def test_a_folder_that_looks_like_an_address_is_a_folder(
    packed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packed.path, tmp_path / "s3:" / "bucket")
    monkeypatch.chdir(tmp_path)
    assert len(Store.open(Path("s3:/bucket"))) == 5
