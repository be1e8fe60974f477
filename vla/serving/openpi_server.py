"""Serves a policy as openpi does: a websocket, msgpack with arrays, the server's metadata first.

The dialect is that of Physical-Intelligence/openpi (Apache-2.0), `src/openpi/serving/websocket_policy_server.py`, with
bounds: few clients, messages of at most 32 MiB, a time limit, and a sentence instead of a traceback.
"""

from __future__ import annotations

import asyncio
import http
import ssl
import time
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from foreact.vla.errors import ForeActError
from foreact.vla.serving.access import check_bind, same_token
from foreact.vla.serving.failures import LOG, TimedOut, told
from foreact.vla.serving.service import PolicyService, TooManyClients
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES, WireError, pack_openpi, unpack_openpi

DEFAULT_PORT = 8000
_INTERNAL_ERROR, _TRY_AGAIN_LATER = 1011, 1013
_PING_S, _PONG_S = 10.0, 20.0
"""A client that is gone without a word is noticed by these, and its place is free again."""


class OpenPiServer:
    """The websocket side of a service.

    Args:
        service: Warmed up.
        host: Address to listen on.
        port: 0 takes any that is free; see `start`.
        token: Secret that clients must send as `Authorization: Api-Key <token>`.
        tls: Certificate to show.
        request_timeout_s: Longest time from a request to its reply.

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
        tls: ssl.SSLContext | None = None,
        request_timeout_s: float = 30.0,
    ):
        check_bind(host, token=token)
        self._service, self._host, self._port = service, host, port
        self._token, self._tls, self._timeout_s = token, tls, request_timeout_s
        self._server: Server | None = None

    async def start(self) -> str:
        """Listen; the URL for clients.

        Raises:
            ForeActError: If the port is taken or the address is not one of this machine.
        """
        try:
            self._server = await serve(
                self._serve_client,
                self._host,
                self._port,
                ssl=self._tls,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=1,
                process_request=self._before_handshake,
                origins=[None],  # no web page may ask, not even one that this machine's browser shows
                server_header=None,
                open_timeout=5.0,
                close_timeout=1.0,
                ping_interval=_PING_S,
                ping_timeout=_PONG_S,
            )
        except OSError as error:
            raise ForeActError(f"cannot listen on {self._host}:{self._port}: {error.strerror or error}") from error
        port = next(iter(self._server.sockets)).getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._tls else 'ws'}://{host}:{port}"

    async def stop(self) -> None:
        """Hang up on all clients."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _before_handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not same_token(self._token, _api_key(request.headers)):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "this server wants a token: Api-Key <token>\n")
        if self._service.full:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no more clients are served at present\n")
        return None

    async def _serve_client(self, connection: ServerConnection) -> None:
        try:
            self._service.join(connection)
        except TooManyClients as error:
            await connection.close(_TRY_AGAIN_LATER, str(error))
            return
        LOG.info("client %s connected", connection.remote_address)
        try:
            await connection.send(pack_openpi(self._service.metadata))
            await self._talk(connection)
        except ConnectionClosed:
            pass
        finally:
            self._service.leave(connection)
            LOG.info("client %s left", connection.remote_address)

    async def _talk(self, connection: ServerConnection) -> None:
        previous_ms: float | None = None
        while True:
            message = await connection.recv()
            began = time.monotonic()
            try:
                reply = pack_openpi(await self._answer(connection, message, previous_ms))
            except ConnectionClosed:
                raise
            except Exception as error:
                sentence = told(error)
                LOG.warning("client %s was refused: %.300r", connection.remote_address, sentence)
                await connection.send(sentence)
                await connection.close(_INTERNAL_ERROR, "refused; see the text before")
                return
            await connection.send(reply)
            previous_ms = 1e3 * (time.monotonic() - began)

    async def _answer(
        self, client: ServerConnection, message: str | bytes, previous_ms: float | None
    ) -> dict[str, Any]:
        if isinstance(message, str):
            raise WireError("a text frame; requests are binary")
        future = self._service.submit(client, unpack_openpi(message))
        try:
            reply = await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)
        except TimeoutError as error:
            raise TimedOut(f"no answer within {self._timeout_s:g} s; the policy is too slow, or hangs") from error
        if previous_ms is not None and "server_timing" in reply:
            reply["server_timing"]["prev_total_ms"] = previous_ms
        return reply


def _api_key(headers: Headers) -> str:
    found = headers.get_all("Authorization")
    return found[0].removeprefix("Api-Key ").strip() if len(found) == 1 else ""
