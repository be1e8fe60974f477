"""Servers beside other work of the same Python process, such as a notebook, a test or a measurement."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class PolicyServer(Protocol):
    """`OpenPiServer` or `Gr00tServer`."""

    async def start(self) -> str: ...

    async def stop(self) -> None: ...


@contextmanager
def in_background(*servers: PolicyServer) -> Iterator[list[str]]:
    """Serve as long as the block runs; gives the URLs.

    Raises:
        ForeActError: If a server cannot listen.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="policy servers", daemon=True)
    thread.start()
    started: list[PolicyServer] = []
    try:
        urls = []
        for server in servers:
            urls.append(asyncio.run_coroutine_threadsafe(server.start(), loop).result())
            started.append(server)
        yield urls
    finally:
        for server in started:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
