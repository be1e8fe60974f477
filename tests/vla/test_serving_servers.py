"""Both servers and both clients over real sockets: who may ask, how much, how long, and what strangers are told."""

from __future__ import annotations

import gc
import importlib.util
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as websocket

from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.serving.access import check_bind, is_loopback, read_token, same_token, server_tls
from foreact.vla.serving.background import in_background
from foreact.vla.serving.client import ClientSettings, ServerLost, ServerRefused, ServerTimeout, connect
from foreact.vla.serving.gr00t_server import Gr00tServer
from foreact.vla.serving.openpi_server import OpenPiServer
from foreact.vla.serving.service import PolicyService
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES, pack_gr00t, pack_openpi, unpack_openpi

_SPEC = importlib.util.spec_from_file_location("serving_actor", Path(__file__).with_name("serving_actor.py"))
assert _SPEC is not None and _SPEC.loader is not None
peer = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(peer)

TOKEN = "a-secret-of-some-length"
FAST = ClientSettings(connect_timeout_s=2.0, request_timeout_s=2.0, silence_s=5.0)
DIALECTS = {"openpi": OpenPiServer, "gr00t": Gr00tServer}


def request(**changes: Any) -> dict[str, Any]:
    """One that the telling actor understands."""
    return {
        "image/front": np.full((8, 12, 3), 10, np.uint8),
        "image/wrist": np.full((6, 6, 3), 20, np.uint8),
        "state": np.array([1.0, 2.0, 3.0], np.float32),
        "prompt": "tidy up",
        **changes,
    }


def new_service(**options: Any) -> PolicyService:
    """The telling actor's, warmed up."""
    service = PolicyService(peer.TellingActor(), **options)
    service.warm_up(1)
    return service


def packed(value: Any) -> bytes:
    """As msgpack writes it."""
    data = msgpack.packb(value)
    assert data is not None
    return data


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def served(dialect: str) -> Iterator[tuple[PolicyService, str]]:
    service = new_service()
    with in_background(DIALECTS[dialect](service, port=0)) as (url,):
        yield service, url


def gone(service: PolicyService, within_s: float = 3.0) -> bool:
    """Whether all clients have been forgotten in time."""
    end = time.monotonic() + within_s
    while service._clients and time.monotonic() < end:
        time.sleep(0.01)
    return not service._clients


def test_a_client_asks_and_is_answered(served: tuple[PolicyService, str]) -> None:
    service, url = served
    client = connect(url, FAST)
    try:
        assert client.alive() and client.metadata == service.metadata
        reply = client.infer(request(sequence=4, foresight=True))
        np.testing.assert_array_equal(reply["actions"][:, 0], [1, 101, 201, 301])
        np.testing.assert_array_equal(reply["actions"][0, 1:], [10, 20, 1, 2, 3])
        assert reply["actions"].shape == (4, 6) and reply["sequence"] == 4 and reply["foresight_steps"] == 7
        np.testing.assert_array_equal(reply["foresight/wrist"], np.full((6, 6, 3), 235, np.uint8))
        batch = {
            "slot": [1, 2],
            **{key: np.stack([request()[key]] * 2) for key in ("image/front", "image/wrist", "state")},
            "prompt": ["tidy up", "go"],
        }
        assert client.infer(batch)["actions"].shape == (2, 4, 6)
        noted = client.infer({"kind": "observe", "slot": [2], "state": np.zeros((1, 3), np.float32), "prompt": ["go"]})
        assert "actions" not in noted
        assert list(client.infer(batch)["actions"][:, 0, 0]) == [2, 3]
        assert client.infer({"kind": "reset"})["reset"] is True
        assert client.infer(request())["actions"][0, 0] == 1
    finally:
        client.close()
    assert not client.alive() and gone(service)
    with pytest.raises(ServerLost, match="hung up"):
        client.infer(request())


def test_a_refusal_is_a_sentence_and_the_next_request_is_answered(served: tuple[PolicyService, str]) -> None:
    service, url = served
    client = connect(url, FAST)
    with pytest.raises(ServerRefused, match="state holds numbers that are not finite"):
        client.infer(request(state=np.array([1, 2, np.nan])))
    assert client.infer(request())["actions"].shape == (4, 6)
    client.close()


@pytest.mark.fault("S13", n=2, event="the policy itself fails; the peer gets an id, the log the reason")
def test_a_bug_is_told_to_the_log_alone(served: tuple[PolicyService, str], caplog: pytest.LogCaptureFixture) -> None:
    service, url = served
    service.actor.broken = KeyError("/home/secret/path")  # type: ignore[attr-defined]
    client = connect(url, FAST)
    with pytest.raises(ServerRefused, match=r"under [0-9a-f]{8}$") as found:
        client.infer(request())
    client.close()
    assert "secret" not in str(found.value) and "Traceback" not in str(found.value)
    assert str(found.value)[-8:] in caplog.text and "/home/secret/path" in caplog.text
    service.actor.broken = None  # type: ignore[attr-defined]
    again = connect(url, FAST)
    assert again.infer(request())["actions"].shape == (4, 6)
    again.close()


@pytest.mark.fault("S13", n=10, event="a fifth client comes while four are served")
def test_four_clients_and_no_more(served: tuple[PolicyService, str]) -> None:
    service, url = served
    with ExitStack() as stack:
        four = [connect(url, FAST) for _ in range(4)]
        for client in four:
            stack.callback(client.close)
            client.infer(request())
        for _ in range(5):
            with pytest.raises((ServerRefused, ServerLost), match=r"no more clients|no more are served"):
                client = connect(url, FAST)
                stack.callback(client.close)
                client.infer(request())
        four[0].close()
        end = time.monotonic() + 2
        while service.full and time.monotonic() < end:
            time.sleep(0.01)
        fifth = connect(url, FAST)
        stack.callback(fifth.close)
        assert fifth.infer(request())["actions"][0, 0] == 1


@pytest.mark.fault("S13", n=2, event="an inference that hangs")
def test_a_request_has_its_time(dialect: str) -> None:
    service = new_service()
    with in_background(DIALECTS[dialect](service, port=0, request_timeout_s=0.2)) as (url,):
        client = connect(url, FAST)
        service.actor.slow_s = 1.0  # type: ignore[attr-defined]
        began = time.monotonic()
        with pytest.raises(ServerRefused, match=r"no answer within 0\.2 s"):
            client.infer(request())
        assert 0.15 < time.monotonic() - began < 0.8
        service.actor.slow_s = 0.0  # type: ignore[attr-defined]
        time.sleep(1.0)
        assert client.infer(request())["actions"].shape == (4, 6)
        client.close()


@pytest.mark.fault("S12", n=9, event="a server is started where others can reach it, without a token")
def test_no_server_for_strangers_without_a_secret(dialect: str, tmp_path: Path) -> None:
    service = new_service()
    for host in ("0.0.0.0", "::", "192.168.1.2", "robot.example", "", "127.0.0.1.example", "128.0.0.1"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="FOREACT_TOKEN"):
            DIALECTS[dialect](service, host, 0)
        check_bind(host, token=TOKEN)
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    # With a token it starts, and listens on loopback alone unless told otherwise.
    with in_background(DIALECTS[dialect](service, "0.0.0.0", 0, token=TOKEN)) as (url,):
        assert url.rpartition(":")[0].endswith("//0.0.0.0")
    with in_background(DIALECTS[dialect](service, port=0)) as (url,):
        address, port = url.rpartition("//")[2].split(":")
        assert address == "127.0.0.1"
        own = _own_address()
        if own is not None:
            with pytest.raises(OSError):
                socket.create_connection((own, int(port)), timeout=1.0)


def _own_address() -> str | None:
    """Another address of this machine than loopback, if it has one."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        found = probe.getsockname()[0]
    except OSError:
        return None
    finally:
        probe.close()
    return None if is_loopback(found) else found


def test_the_secret_is_asked_for(dialect: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = new_service()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nsecond line\n")
    assert read_token(str(file)) == TOKEN
    monkeypatch.setenv("FOREACT_TOKEN", TOKEN)
    assert read_token() == TOKEN
    monkeypatch.delenv("FOREACT_TOKEN")
    assert read_token() is None
    for bad in ("", "short", "sixteen letters and a blank", "ä" * 20):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="16 letters"):
            read_token(str(file))
    with pytest.raises(ConfigError, match="token file"):
        read_token(str(tmp_path / "missing"))
    with in_background(DIALECTS[dialect](service, port=0, token=TOKEN)) as (url,):
        for wrong in (None, TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä" * 30):
            if wrong is not None and not wrong.isascii() and dialect == "openpi":
                continue  # no HTTP header can carry it
            with pytest.raises(ServerRefused, match="token"):
                connect(url, ClientSettings(token=wrong))
        client = connect(url, ClientSettings(token=TOKEN))
        assert client.infer(request())["actions"].shape == (4, 6)
        client.close()
    assert same_token(None, 5) and not same_token(TOKEN, None) and not same_token(TOKEN, 5)


def test_a_port_that_is_taken_is_named(dialect: str) -> None:
    service = new_service()
    with in_background(DIALECTS[dialect](service, port=0)) as (url,):
        port = int(url.rpartition(":")[2])
        with (
            pytest.raises(ForeActError, match=f"cannot listen on 127.0.0.1:{port}"),
            in_background(DIALECTS[dialect](service, port=port)),
        ):
            pass


# --- openpi alone


@pytest.fixture
def openpi() -> Iterator[str]:
    with in_background(OpenPiServer(new_service(), port=0)) as (url,):
        yield url


def test_the_wire_is_openpis(openpi: str) -> None:
    with urllib.request.urlopen(openpi.replace("ws://", "http://") + "/healthz", timeout=5) as answer:
        assert answer.status == 200 and answer.read() == b"OK\n"
    with websocket(openpi, compression=None, max_size=None) as connection:
        first = connection.recv(timeout=5)
        assert isinstance(first, bytes) and unpack_openpi(first)["server"] == "foreact"
        sent = pack_openpi(request())
        for number in range(3):
            connection.send(sent)
            reply = connection.recv(timeout=5)
            assert isinstance(reply, bytes)
            # Read as openpi's client reads it, without our reader.
            found = msgpack.unpackb(reply)
            actions = found["actions"]
            assert actions[b"__ndarray__"] is True and actions[b"dtype"] == "<f4" and actions[b"shape"] == [4, 6]
            assert np.frombuffer(actions[b"data"], "<f4")[0] == number + 1
            timing = found["server_timing"]
            assert timing["infer_ms"] >= 0 and ("prev_total_ms" in timing) == (number > 0)
        # An error is a text frame, then the connection is closed with 1011.
        connection.send(pack_openpi({"prompt": "x"}))
        assert connection.recv(timeout=5) == "no 'image/front': the policy looks at this camera, 8 x 12 pixels"
        with pytest.raises(ConnectionClosedError):
            connection.recv(timeout=5)
        assert connection.close_code == 1011


@pytest.mark.fault("S13", n=3, event="messages that are too large, no binary, or from a web page")
def test_openpis_strangers_are_turned_away(openpi: str) -> None:
    with websocket(openpi, compression=None, max_size=None) as connection:
        connection.recv(timeout=5)
        with pytest.raises(ConnectionClosed):
            connection.send(bytes(MAX_MESSAGE_BYTES + 1))
            connection.recv(timeout=5)
        assert connection.close_code == 1009
    with websocket(openpi, compression=None, max_size=None) as connection:
        connection.recv(timeout=5)
        connection.send("text")
        assert "binary" in str(connection.recv(timeout=5))
    with pytest.raises(InvalidStatus) as found:
        websocket(openpi, origin="http://evil.example").__enter__()  # type: ignore[arg-type]
    assert found.value.response.status_code == 403
    client = connect(openpi, FAST)  # and others are served as before
    assert client.infer(request())["actions"].shape == (4, 6)
    client.close()


def test_tls_shows_a_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with pytest.raises(ConfigError, match="together"):
        server_tls(str(cert), "")
    with pytest.raises(ConfigError, match="TLS certificate"):
        server_tls(str(cert), str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="other machines"):  # a certificate alone lets anybody ask
        OpenPiServer(new_service(), "0.0.0.0", 0, tls=server_tls(str(cert), str(key)))
    with in_background(OpenPiServer(new_service(), port=0, tls=server_tls(str(cert), str(key)))) as (url,):
        assert url.startswith("wss://")
        client = connect(url, ClientSettings(tls_ca=str(cert)))
        assert client.infer(request())["actions"].shape == (4, 6)
        client.close()
        with pytest.raises(ServerLost, match=r"(?i)certificate"):
            connect(url)
        with pytest.raises(ServerLost):
            connect(url.replace("wss", "ws"), FAST)


# --- GR00T alone


def test_the_wire_is_gr00ts() -> None:
    killed = threading.Event()
    with in_background(Gr00tServer(new_service(), port=0, token=TOKEN, on_kill=killed.set)) as (url,):
        context = zmq.Context()
        asker = context.socket(zmq.REQ)
        asker.setsockopt(zmq.RCVTIMEO, 5000)
        asker.setsockopt(zmq.LINGER, 0)
        asker.connect(url.removeprefix("zmq+"))

        def ask(**message: Any) -> Any:
            asker.send(packed({"api_token": TOKEN, **message}))
            return msgpack.unpackb(asker.recv())

        try:
            pong = ask(endpoint="ping")
            assert pong["status"] == "ok" and pong["message"] == "Server is running"
            assert ask(endpoint="ping", api_token="wrong") == {"error": "Unauthorized: Invalid API token"}
            assert not killed.is_set()
            config = ask(endpoint="get_modality_config")
            assert config["video"]["__ModalityConfig_class__"] is True
            assert config["action"]["as_json"]["delta_indices"] == [0, 1, 2, 3]
            assert ask(endpoint="reset", data={"options": None}) == {"reset": True}
            assert "Unknown endpoint: 'eval'" in ask(endpoint="eval")["error"]
            assert "data must be a map" in ask(endpoint="get_action", data=[1])["error"]
            assert "observation" in ask(data={})["error"]  # get_action is what is meant when nothing is said
            assert ask(endpoint="kill") is None and killed.wait(5)
        finally:
            asker.close()
            context.term()


def test_gr00ts_kill_is_refused_unless_allowed() -> None:
    with in_background(Gr00tServer(new_service(), port=0)) as (url,):
        client: Any = connect(url, FAST)
        with pytest.raises(ServerRefused, match="--allow-kill"):
            client.call("kill")
        assert client.infer(request())["actions"].shape == (4, 6)
        client.close()


@pytest.mark.fault("S13", n=5, event="ZeroMQ frames that are no requests, too large, or come all at once")
def test_gr00ts_strangers_are_turned_away() -> None:
    service = new_service()
    with in_background(Gr00tServer(service, port=0)) as (url,):
        context = zmq.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(url.removeprefix("zmq+"))
        try:
            ping = packed({"endpoint": "ping"})
            stranger.send_multipart([b"x"])
            stranger.send_multipart([b"", b"a", b"b"])
            stranger.send_multipart([b"no delimiter", ping])
            for _ in range(200):
                stranger.send_multipart([b"", packed({"endpoint": "reset"})])
            stranger.send_multipart([b"", bytes(MAX_MESSAGE_BYTES + 1)])
            client = connect(url, FAST)
            assert client.infer(request())["actions"].shape == (4, 6)
            client.close()
        finally:
            stranger.close()
            context.term()
        assert gone(service)


@pytest.mark.fault("S13", n=20, event="a ZeroMQ client that asks on without waiting for the reply")
def test_gr00ts_clients_have_one_request_at_a_time() -> None:
    service = new_service()
    service.actor.slow_s = 0.2  # type: ignore[attr-defined]
    state = {"arm": np.zeros((1, 1, 2), np.float32), "hand": np.zeros((1, 1, 1), np.float32)}
    video = {"front": np.zeros((1, 1, 8, 12, 3), np.uint8), "wrist": np.zeros((1, 1, 6, 6, 3), np.uint8)}
    observation = {"video": video, "state": state, "language": {"task": [["tidy up"]]}}
    with in_background(Gr00tServer(service, port=0)) as (url,):
        context = zmq.Context()
        hasty = context.socket(zmq.DEALER)
        hasty.setsockopt(zmq.LINGER, 0)
        hasty.connect(url.removeprefix("zmq+"))
        try:
            for _ in range(20):
                hasty.send_multipart(
                    [b"", pack_gr00t({"endpoint": "get_action", "data": {"observation": observation}})]
                )
            replies = 0
            while hasty.poll(1_000):
                assert b"error" not in hasty.recv_multipart()[1][:20]
                replies += 1
            assert replies == 1
        finally:
            hasty.close()
            context.term()


@pytest.mark.fault("S13", n=60, event="ZeroMQ clients that leave right after they asked")
def test_gr00ts_clients_that_do_not_wait_are_forgotten() -> None:
    service = new_service()
    service.actor.slow_s = 0.005  # type: ignore[attr-defined]
    reset = pack_gr00t({"endpoint": "reset", "data": {"options": None}})
    with in_background(Gr00tServer(service, port=0)) as (url,):
        context = zmq.Context()
        for number in range(60):
            asker = context.socket(zmq.REQ)
            asker.connect(url.removeprefix("zmq+"))
            asker.send(reset)
            time.sleep(0.003 * (number % 3))
            asker.close(200)  # what was said is still sent
        context.term()
        assert gone(service)


def test_a_client_that_is_thrown_away_hangs_up(served: tuple[PolicyService, str]) -> None:
    service, url = served
    client = connect(url, FAST)
    client.infer(request())
    assert service._clients
    del client
    gc.collect()
    assert gone(service)


# --- clients


def _listener() -> socket.socket:
    found = socket.create_server(("127.0.0.1", 0))
    found.settimeout(5)
    return found


@pytest.mark.parametrize("scheme", ["ws", "zmq+tcp"])
@pytest.mark.fault("S14", n=4, event="nobody listens, or somebody who never says a word")
def test_a_server_that_is_none_costs_a_bounded_time(scheme: str) -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
        began = time.monotonic()
        with pytest.raises((ServerLost, ServerTimeout), match="is not there|did not|said nothing"):
            connect(f"{scheme}://127.0.0.1:{port}", ClientSettings(connect_timeout_s=0.3))
        assert time.monotonic() - began < 1.0
    began = time.monotonic()
    with pytest.raises(ServerLost, match="is not there"):
        connect(f"{scheme}://127.0.0.1:{port}", ClientSettings(connect_timeout_s=2.0))
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:8000", "ws://", "tcp://127.0.0.1:5555", ""])
def test_a_url_of_another_kind_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="expected ws://HOST:PORT"):
        connect(url)


def test_a_client_connects_again_unless_told_not_to(dialect: str) -> None:
    lost: list[str] = []
    service = new_service()
    with in_background(DIALECTS[dialect](service, port=0)) as (url,):
        port = int(url.rpartition(":")[2])
        patient = connect(url, FAST, on_lost=lost.append)
        strict = connect(url, ClientSettings(reconnect=False))
        patient.infer(request())
        strict.infer(request())
    end = time.monotonic() + 2
    while (patient.alive() or strict.alive() or not lost) and time.monotonic() < end:
        time.sleep(0.005)
    assert not patient.alive() and not strict.alive() and len(lost) == 1
    with pytest.raises(ServerLost):
        patient.infer(request())
    with in_background(DIALECTS[dialect](service, port=port)):
        assert patient.infer(request())["actions"][0, 0] == 1 and patient.alive()
        with pytest.raises(ServerLost):
            strict.infer(request())
    patient.close()
    strict.close()


def test_to_hang_up_ends_a_request_that_waits(served: tuple[PolicyService, str]) -> None:
    service, url = served
    service.actor.slow_s = 1.5  # type: ignore[attr-defined]
    client = connect(url, FAST)
    found: list[Exception] = []

    def ask() -> None:
        try:
            client.infer(request())
        except ForeActError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    client.close()
    thread.join(2)
    assert time.monotonic() - began < 0.5 and isinstance(found[0], ServerLost)
