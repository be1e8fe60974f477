"""Asks a policy server that speaks GR00T's dialect, and never waits longer than it was told to.

GR00T's own client keeps a timeout but does not set it on its socket, and so waits for ever on a server that died. Here
every wait is bounded, and ZeroMQ's heartbeats tell when a server is gone while nothing is asked of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from foreact.vla.errors import ForeActError
from foreact.vla.serving.client import ClientSettings, ServerLost, ServerRefused, ServerTimeout
from foreact.vla.serving.gr00t_names import PROMPT, join_actions
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES, WireError, pack_gr00t, unpack_gr00t

_SLICE_MS = 20
_GONE = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_EVENTS = _GONE | zmq.EVENT_HANDSHAKE_SUCCEEDED


class Gr00tClient:
    """A `PolicyClient` for `tcp://host:port`; see `foreact.vla.serving.client`.

    Args:
        address: The server's, as ZeroMQ writes it.
        settings: How long to wait.
        on_lost: Told once per connection, from the heartbeat's thread, why the server counts as gone.

    Raises:
        PolicyServerError: If there is no server that welcomes this client.
    """

    def __init__(
        self, address: str, settings: ClientSettings | None = None, *, on_lost: Callable[[str], None] | None = None
    ):
        self.url = f"zmq+{address}"
        self.metadata: Mapping[str, Any] = {}
        self._address, self._settings, self._on_lost = address, settings or ClientSettings(), on_lost
        self._context = zmq.Context()
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._link: _Link | None = None
        with self._one_at_a_time:
            try:
                self._connect()
            except ForeActError:
                self._context.term()
                raise

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one reply, under our names. Needs a ForeAct at the other end; see `call` for others.

        Raises:
            PolicyServerError: If there is no reply within the time limit, or it says no.
        """
        if request.get("kind") == "reset":
            slot = request.get("slot")
            found = self.call("reset", {"options": None if slot is None else {"slot": slot}})
            return dict(found) if isinstance(found, dict) else {}
        batched = isinstance(request.get("slot"), list | np.ndarray)
        observation: dict[str, Any] = {}
        options: dict[str, Any] = {"slot": request.get("slot", 0)}
        for name, value in request.items():
            if name.startswith(("image/", "state/")) or name == "state":
                array = np.asarray(value)
                array = array[:, None] if batched else array[None, None]
                observation[name.replace("image/", "video.").replace("state/", "state.")] = array
            elif name == "prompt":
                observation[PROMPT] = value if batched else [value]
            elif name != "slot":
                options[name] = value
        action, info = self.get_action(observation, options)
        reply = dict(info)
        fields = reply.pop("action_fields", ())
        rows = slice(None) if batched else 0
        for name in [name for name in reply if name.startswith("foresight/")]:
            reply[name] = reply[name][rows]
        if action:
            reply["actions"] = join_actions(action, fields)[rows]
        return reply

    def get_action(
        self, observation: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(action, info) for an observation in GR00T's own names and shapes.

        Raises:
            PolicyServerError: As `infer`.
        """
        found = self.call("get_action", {"observation": observation, "options": options})
        if not isinstance(found, list) or len(found) != 2 or not all(isinstance(part, dict) for part in found):
            raise ServerRefused(f"policy server {self.url} sent something else than [action, info]")
        return found[0], found[1]

    def call(self, endpoint: str, data: Mapping[str, Any] | None = None) -> Any:
        """What an endpoint returns.

        Raises:
            PolicyServerError: As `infer`.
        """
        with self._one_at_a_time:
            if not self.alive():
                if self._closed or not self._settings.reconnect:
                    raise ServerLost(f"policy server {self.url}: {self._why()}")
                self._connect()
            return self._call(endpoint, data, self._settings.request_timeout_s)

    def alive(self) -> bool:
        """Whether the connection stands and the server showed signs of life lately."""
        return self._link is not None and not self._link.lost

    def close(self) -> None:
        """Hang up."""
        self._closed = True
        if self._link is not None:
            self._link.lost = self._link.lost or "this end hung up"
        with self._one_at_a_time:  # a request that waits notices within a slice of time
            if self._link is not None:
                self._link.close()
                self._link = None
                self._context.term()

    def __del__(self) -> None:
        # ZeroMQ waits for ever for the sockets of a context that is thrown away.
        if hasattr(self, "_link"):
            self.close()

    # --- inside, one thread at a time

    def _why(self) -> str:
        return (self._link.lost if self._link is not None else "") or "this end hung up"

    def _connect(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
        began, limit_s = time.monotonic(), self._settings.connect_timeout_s
        link = _Link(self._context, self._address, self._settings, self._on_lost)
        try:
            if not link.ready.wait(limit_s) or link.lost:
                why = link.lost or f"no answer within {limit_s:g} s"
                raise ServerLost(f"policy server {self.url} is not there: {why}. Is `foreact serve` running?")
            self._link = link
            told = self._call("ping", None, max(0.001, limit_s - (time.monotonic() - began)))
        except BaseException:
            link.close()
            self._link = None
            raise
        about = told.get("foreact") if isinstance(told, dict) else None
        self.metadata = about if isinstance(about, dict) else {}

    def _call(self, endpoint: str, data: Mapping[str, Any] | None, timeout_s: float) -> Any:
        link = self._link
        assert link is not None
        end = time.monotonic() + timeout_s
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._settings.token is not None:
            request["api_token"] = self._settings.token
        packed = pack_gr00t(request)
        try:
            link.socket.send(packed)
            while not link.socket.poll(_SLICE_MS):
                if link.lost:
                    raise ServerLost(f"policy server {self.url} is gone: {link.lost}")
                if time.monotonic() > end:
                    raise ServerTimeout(f"policy server {self.url} did not answer within {timeout_s:g} s")
            reply = link.socket.recv(zmq.NOBLOCK)
        except zmq.ZMQError as error:
            link.lost = link.lost or str(error)
            raise ServerLost(f"policy server {self.url} is gone: {link.lost}") from error
        except ServerTimeout as error:
            link.lost = str(error)  # a late reply must not be taken for that of another request
            raise
        try:
            found = unpack_gr00t(reply)
        except WireError as error:
            raise ServerRefused(f"policy server {self.url} sent a reply that cannot be read: {error}") from error
        if isinstance(found, dict) and "error" in found:
            sentence = "".join(c for c in str(found["error"]) if c.isprintable())[:500]
            raise ServerRefused(f"policy server {self.url} refuses: {sentence}")
        return found


class _Link:
    """One connection and a thread that hears what becomes of it."""

    def __init__(
        self, context: zmq.Context, address: str, settings: ClientSettings, on_lost: Callable[[str], None] | None
    ):
        self.lost, self.ready = "", threading.Event()
        self._on_lost, self._ended = on_lost, threading.Event()
        self.socket = context.socket(zmq.REQ)
        silence_ms = max(1, round(1e3 * settings.silence_s))
        options = {
            zmq.LINGER: 0, zmq.SNDTIMEO: round(1e3 * settings.request_timeout_s), zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
            zmq.RCVTIMEO: round(1e3 * settings.request_timeout_s), zmq.RECONNECT_IVL: -1,
            zmq.CONNECT_TIMEOUT: max(1, round(1e3 * settings.connect_timeout_s)),
            zmq.HANDSHAKE_IVL: max(1, round(1e3 * settings.connect_timeout_s)),
            zmq.HEARTBEAT_IVL: max(1, round(1e3 * settings.heartbeat_s)), zmq.HEARTBEAT_TIMEOUT: silence_ms,
            zmq.IPV6: int("[" in address),
        }  # fmt: skip
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self._monitor.close(0)
            self.socket.close(0)
            raise ServerLost(f"{address!r} is no address: {error}") from error
        self._thread = threading.Thread(target=self._listen, name="policy heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up; not while another thread uses the socket."""
        self._ended.set()
        self._thread.join()
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)

    def _listen(self) -> None:
        while not self._ended.is_set():
            if not self._monitor.poll(_SLICE_MS):
                continue
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.ready.set()
                continue
            first, self.lost = (
                not self.lost,
                self.lost
                or (
                    "the connection was closed, or there was no sign of life"
                    if self.ready.is_set()
                    else "nobody listens"
                ),
            )
            if first and self.ready.is_set() and self._on_lost is not None:
                self._on_lost(self.lost)
            self.ready.set()
            return
