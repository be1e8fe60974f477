"""Asks a policy server that speaks openpi's dialect, and never waits longer than it was told to.

The usual clients wait for ever: for a server that is not there yet, and for an answer that will not come. Here every
wait is bounded; a second thread sends pings, so that a server that died is noticed when nothing is asked of it, too.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from foreact.vla.errors import ConfigError
from foreact.vla.serving.client import ClientSettings, ServerLost, ServerRefused, ServerTimeout
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES, WireError, pack_openpi, unpack_openpi

_REFUSED = {401: "it wants another token", 503: "it serves no more clients at present"}


class OpenPiClient:
    """A `PolicyClient` for `ws://` and `wss://`; see `foreact.vla.serving.client`.

    Args:
        url: The server's.
        settings: How long to wait.
        on_lost: Told once per connection, from the heartbeat's thread, why the server counts as gone.

    Raises:
        PolicyServerError: If there is no server that welcomes this client.
        ConfigError: If the URL, or the certificate to trust, is none.
    """

    def __init__(
        self, url: str, settings: ClientSettings | None = None, *, on_lost: Callable[[str], None] | None = None
    ):
        self.url, self._settings, self._on_lost = url, settings or ClientSettings(), on_lost
        self.metadata: Mapping[str, Any] = {}
        self._one_at_a_time = threading.Lock()
        self._sending = threading.Lock()
        self._waits = False  # a request is under way
        self._heard_s = 0.0
        self._lost = "not connected yet"
        self._closed = threading.Event()
        self._connection: ClientConnection | None = None
        self._connect()
        self._pong: threading.Event | None = None
        self._pong_of: ClientConnection | None = None
        beat = (weakref.ref(self), self._closed, self._settings.heartbeat_s)
        threading.Thread(target=_beats, args=beat, name="policy heartbeat", daemon=True).start()

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one reply.

        Raises:
            ServerTimeout: If there is no whole reply within `request_timeout_s`; the connection is then given up.
            ServerLost: If the connection is gone and cannot be made again.
            ServerRefused: With the server's sentence.
        """
        data = pack_openpi(request)
        with self._one_at_a_time:
            if not self.alive():
                if self._closed.is_set() or not self._settings.reconnect:
                    raise ServerLost(f"policy server {self.url}: {self._lost or 'the connection is closed'}")
                self._connect()
            connection = self._connection
            assert connection is not None
            self._waits = True
            try:
                reply = self._exchange(connection, data)
            finally:
                self._waits = False
        if isinstance(reply, str):
            self._give_up("it refused the last request")
            raise ServerRefused(f"policy server {self.url} refuses: {_one_line(reply)}")
        try:
            found = unpack_openpi(reply)
        except WireError as error:
            self._give_up("its last reply cannot be read")
            raise ServerRefused(f"policy server {self.url} sent a reply that cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise ServerRefused(f"policy server {self.url} sent {type(found).__name__} where a map was expected")
        return found

    def alive(self) -> bool:
        """Whether the connection stands and the server showed signs of life lately."""
        connection = self._connection
        return connection is not None and not self._lost and connection.state is State.OPEN

    @property
    def heard_s(self) -> float:
        """Steady clock [s] of the last sign of life, to `heartbeat_s`."""
        return self._heard_s

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._give_up("this end hung up", quietly=True)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()

    # --- inside

    def _connect(self) -> None:
        settings = self._settings
        if self._connection is not None:
            _cut(self._connection)
        began = time.monotonic()
        try:
            connection = connect_websocket(
                self.url,
                ssl=_trust(settings.tls_ca) if self.url.startswith("wss://") else None,
                additional_headers={"Authorization": f"Api-Key {settings.token}"} if settings.token else None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=settings.connect_timeout_s,
                close_timeout=0.2,
                ping_interval=None,
                proxy=None,
            ).__enter__()  # it is left by `_cut`
        except InvalidStatus as error:
            code = error.response.status_code
            raise ServerRefused(
                f"policy server {self.url} refuses this client: {_REFUSED.get(code, f'HTTP status {code}')}"
            ) from error
        except (OSError, InvalidHandshake, EOFError, ConnectionClosed) as error:
            what = "no answer" if isinstance(error, TimeoutError) else (getattr(error, "strerror", None) or error)
            raise ServerLost(f"policy server {self.url} is not there: {what}. Is `foreact serve` running?") from error
        except (InvalidURI, ValueError) as error:
            raise ConfigError(f"policy server {self.url}: {error}") from error
        left = settings.connect_timeout_s - (time.monotonic() - began)
        try:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = connection.recv(timeout=max(left, 0.001))
            metadata = unpack_openpi(first) if isinstance(first, bytes) else None
        except TimeoutError as error:
            _cut(connection)
            raise ServerTimeout(
                f"policy server {self.url} accepted the connection but said nothing for "
                f"{settings.connect_timeout_s:g} s"
            ) from error
        except (ConnectionClosed, WireError, OSError) as error:
            _cut(connection)
            raise ServerLost(f"policy server {self.url} did not introduce itself: {_one_line(str(error))}") from error
        if not isinstance(metadata, dict):
            _cut(connection)
            raise ServerRefused(f"{self.url} does not speak openpi's dialect: it sends no metadata")
        self.metadata, self._connection = metadata, connection
        self._heard_s, self._lost = time.monotonic(), ""

    def _exchange(self, connection: ClientConnection, data: bytes) -> str | bytes:
        timeout_s = self._settings.request_timeout_s
        end = time.monotonic() + timeout_s
        watch = threading.Timer(timeout_s, _cut, [connection])  # a stopped server may also stop to take what is sent
        watch.daemon = True
        watch.start()
        try:
            with self._sending:
                connection.send(data)
            return connection.recv(timeout=max(end - time.monotonic(), 0.0))
        except TimeoutError as error:
            late: BaseException = error
        except (ConnectionClosed, OSError) as error:
            if time.monotonic() < end:
                self._give_up("the connection was closed")
                raise ServerLost(f"policy server {self.url} is gone: {self._lost}") from error
            late = error
        finally:
            watch.cancel()
        self._give_up(f"no reply within {timeout_s:g} s")
        raise ServerTimeout(f"policy server {self.url} did not answer within {timeout_s:g} s") from late

    def _give_up(self, why: str, quietly: bool = False) -> None:
        first, self._lost = not self._lost, self._lost or why
        connection = self._connection
        if connection is not None:
            _cut(connection)
        if first and not quietly and self._on_lost is not None:
            self._on_lost(why)

    def _beat(self) -> None:
        connection = self._connection
        if connection is None or self._lost:
            return
        if connection is not self._pong_of:
            self._pong, self._pong_of = None, connection
        if connection.state is not State.OPEN:
            self._give_up("the server closed the connection")
        elif self._pong is None or self._pong.is_set():
            self._heard_s = time.monotonic()
            self._pong = self._ping(connection)
        elif time.monotonic() - self._heard_s > self._silence_s():
            self._give_up(f"no sign of life for {self._settings.silence_s:g} s")

    def _silence_s(self) -> float:
        # Other servers answer no ping while they compute; then the request's own time limit has to do.
        computes = self._waits and self.metadata.get("server") != "foreact"
        return self._settings.silence_s + (self._settings.request_timeout_s if computes else 0.0)

    def _ping(self, connection: ClientConnection) -> threading.Event | None:
        if not self._sending.acquire(blocking=False):
            return None
        try:
            return connection.ping()
        except (ConnectionClosed, OSError):
            return None
        finally:
            self._sending.release()


def _beats(client: weakref.ref[OpenPiClient], closed: threading.Event, heartbeat_s: float) -> None:
    """The heartbeat's thread; it does not keep a client that nobody else knows any more."""
    while not closed.wait(heartbeat_s):
        found = client()
        if found is None:
            return
        found._beat()
        del found


def _cut(connection: ClientConnection) -> None:
    """End a connection without waiting for anybody: a server that hangs would not take part in saying goodbye."""
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def _trust(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"certificate to trust {ca}: {error}") from error


def _one_line(text: str) -> str:
    """The last line of what a server says (others send a traceback), without control characters."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "".join(c for c in (lines[-1] if lines else "(nothing)") if c.isprintable())[:500]
