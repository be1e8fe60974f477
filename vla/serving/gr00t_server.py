"""Serves a policy as GR00T does: ZeroMQ requests and replies, msgpack with `.npy` arrays.

The dialect is that of NVIDIA/Isaac-GR00T (Apache-2.0), `gr00t/policy/server_client.py`, with bounds: few clients,
messages of at most 32 MiB, a time limit, `kill` only where it is allowed. Their server answers one client after the
other through one REP socket; this one knows its clients apart, by a ROUTER socket, and forgets those that are gone.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from foreact.vla.errors import ForeActError
from foreact.vla.serving.access import check_bind, same_token
from foreact.vla.serving.failures import LOG, TimedOut, told
from foreact.vla.serving.gr00t_names import Layout, from_reply, modality_config, to_request
from foreact.vla.serving.msgpack_reader import read_msgpack
from foreact.vla.serving.requests import BadRequest
from foreact.vla.serving.service import PolicyService
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES, WireError, pack_gr00t, unpack_gr00t

DEFAULT_PORT = 5555
_LAST_REPLY_MS = 1000
"""How long the answer to `kill` may take to leave."""
_ENDPOINTS = ("get_action", "get_modality_config", "kill", "ping", "reset")
_ALIVE_MS = 5_000


@dataclass
class _Pending:
    """A request that is being answered."""

    future: Future[dict[str, Any]]
    layout: Layout | None
    """Of an observation; None for a reset."""
    deadline_s: float
_AT_ONCE = 32
"""Messages that are read before replies have their turn: nobody who floods keeps the others waiting."""


class Gr00tServer:
    """The ZeroMQ side of a service, on a thread of its own.

    Args:
        service: Warmed up.
        host: Address to listen on, a number: ZeroMQ does not look names up.
        port: 0 takes any that is free; see `start`.
        token: Secret that clients must send as `api_token`. It crosses the network in the clear.
        request_timeout_s: Longest time from a request to its reply.
        on_kill: Called, from the server's thread, when a client asks to end the server; None: that is refused.

    Raises:
        ConfigError: If others could reach it without a secret.
    """

    def __init__(
        self,
        service: PolicyService,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        token: str | None = None,
        request_timeout_s: float = 30.0,
        on_kill: Callable[[], Any] | None = None,
    ):
        check_bind(host, token=token)
        self._service, self._host, self._port = service, "127.0.0.1" if host == "localhost" else host, port
        self._token, self._timeout_s, self._on_kill = token, request_timeout_s, on_kill
        self._killed = False
        self._pending: dict[bytes, _Pending] = {}
        self._clients: dict[bytes, int] = {}  # client -> file descriptor of its connection
        self._gone: deque[bytes] = deque(maxlen=256)  # a request may be read after its connection was closed
        self._stopping = False
        self._thread: threading.Thread | None = None

    async def start(self) -> str:
        """Listen; the URL for clients.

        Raises:
            ForeActError: If the port is taken or the address is not one of this machine.
        """
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        options = {
            zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES, zmq.LINGER: 0, zmq.RCVHWM: 4, zmq.SNDHWM: 4, zmq.BACKLOG: 16,
            zmq.HANDSHAKE_IVL: 5_000, zmq.HEARTBEAT_IVL: _ALIVE_MS, zmq.HEARTBEAT_TIMEOUT: 2 * _ALIVE_MS,
            zmq.IPV6: int(":" in self._host), zmq.ROUTER_MANDATORY: 1,
        }  # fmt: skip
        for option, value in options.items():
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self._socket.bind(f"tcp://{host}:{self._port or '*'}")
        except zmq.ZMQError as error:
            self._hang_up()
            raise ForeActError(f"cannot listen on {self._host}:{self._port}: {error}") from error
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self._thread = threading.Thread(target=self._work, name="gr00t server", daemon=True)
        self._thread.start()
        return f"zmq+{endpoint.rstrip(bytes(1)).decode()}"

    async def stop(self) -> None:
        """Hang up on all clients."""
        self._stopping = True
        if self._thread is not None and self._thread.is_alive():
            self._wake()
            await asyncio.to_thread(self._thread.join)

    # --- the server's thread

    def _work(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._wake_read):
            poller.register(source, zmq.POLLIN)
        try:
            while not self._stopping:
                poller.poll(self._patience_ms())
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                # Who is gone is learned first: a new connection may have the number of an old one.
                self._forget_the_gone()
                self._receive()
                self._reply_to_all()
        finally:
            for client in self._clients:
                self._service.leave(client)
            self._hang_up()

    def _hang_up(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_LAST_REPLY_MS if self._killed else 0)
        self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: nobody is left to be woken
            os.write(self._wake_write, b"!")

    def _patience_ms(self) -> int | None:
        if not self._pending:
            return None
        soonest = min(pending.deadline_s for pending in self._pending.values())
        return max(0, int(1e3 * (soonest - time.monotonic())) + 1)

    def _forget_the_gone(self) -> None:
        while self._monitor.poll(0):
            closed = recv_monitor_message(self._monitor)["value"]
            for client in [client for client, number in self._clients.items() if number == closed]:
                self._forget(client)

    def _forget(self, client: bytes) -> None:
        pending = self._pending.pop(client, None)
        if pending is not None:
            pending.future.cancel()
        if self._clients.pop(client, None) is not None:
            self._service.leave(client)
            LOG.info("client %s left", client.hex())
        self._gone.append(client)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._socket.poll(0):
                return
            frames = self._socket.recv_multipart(copy=False)
            self._forget_the_gone()  # it may have left, and another come with its number, since the last look
            client = frames[0].bytes
            if len(frames) != 3 or len(frames[1]) or client in self._pending or client in self._gone:
                continue  # not what a REQ socket sends, or there is nobody who waits for a reply
            number = frames[2].get(zmq.SRCFD)
            try:
                reply = self._take(client, int(number), frames[2].bytes)
            except Exception as error:
                reply = self._refusal(client, error)
            if reply is not None:
                self._send(client, reply)
            if self._killed and self._on_kill is not None:  # not before it is answered
                self._on_kill()
                return

    def _take(self, client: bytes, connection: int, data: bytes) -> bytes | None:
        """The reply to a request; None if it comes later."""
        envelope = read_msgpack(data)  # its arrays are not looked into before the token is known to be right
        if not isinstance(envelope, dict):
            raise WireError("a request is a map with 'endpoint' and 'data'")
        if not same_token(self._token, envelope.get("api_token")):
            raise BadRequest("Unauthorized: Invalid API token")
        request = unpack_gr00t(data)
        endpoint = request.get("endpoint", "get_action")
        given = request.get("data")
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise BadRequest("data must be a map")
        if endpoint == "ping":
            return pack_gr00t({"status": "ok", "message": "Server is running", "foreact": self._service.metadata})
        if endpoint == "get_modality_config":
            return pack_gr00t(modality_config(self._service.contract, int(self._service.metadata["chunk"])))
        if endpoint == "kill":
            if self._on_kill is None:
                raise BadRequest("kill is refused: the server was started without --allow-kill")
            self._killed = True
            return pack_gr00t(None)
        if endpoint == "get_action":
            message, layout = to_request(given.get("observation"), given.get("options"))
        elif endpoint == "reset":
            options = given.get("options")
            slot = options.get("slot") if isinstance(options, Mapping) else None
            message, layout = {"kind": "reset", **({} if slot is None else {"slot": slot})}, None
        else:
            raise BadRequest(f"Unknown endpoint: {endpoint!r:.40}; known: {', '.join(_ENDPOINTS)}")
        if client not in self._clients:
            self._service.join(client)
            self._clients[client] = connection
            LOG.info("client %s connected", client.hex())
        future = self._service.submit(client, message)
        self._pending[client] = _Pending(future, layout, time.monotonic() + self._timeout_s)
        future.add_done_callback(lambda _: self._wake())
        return None

    def _reply_to_all(self) -> None:
        now = time.monotonic()
        for client, pending in list(self._pending.items()):
            if not pending.future.done() and now < pending.deadline_s:
                continue
            del self._pending[client]
            try:
                if not pending.future.done():
                    pending.future.cancel()
                    raise TimedOut(f"no answer within {self._timeout_s:g} s; the policy is too slow, or hangs")
                reply = pending.future.result()
                if pending.layout is None:
                    self._send(client, pack_gr00t(reply))
                else:
                    self._send(client, pack_gr00t(list(from_reply(reply, self._service.contract, pending.layout))))
            except Exception as error:
                self._send(client, self._refusal(client, error))

    def _refusal(self, client: bytes, error: Exception) -> bytes:
        sentence = told(error)
        LOG.warning("client %s was refused: %.300r", client.hex(), sentence)
        return pack_gr00t({"error": sentence})

    def _send(self, client: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([client, b"", data], zmq.NOBLOCK)
        except zmq.ZMQError:  # gone in the meantime, or it takes no replies
            self._forget(client)
