"""Files in an object storage, read through Zarr's store interface; nothing is ever written there."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foreact.datasets.layout import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

_URL = re.compile(r"(s3|s3a|gs|az)://?(?=[^/])")
_RETRIES = 3
_CONNECT_S = 5.0
_T = TypeVar("_T")


def as_url(path: Path | str) -> str | None:
    """The URL that `path` is, or None if it is a path; `Path("s3://b/x")`, which loses a slash, counts as one."""
    text = str(path)
    found = _URL.match(text)
    if found is None or Path(text).exists():
        return None
    return f"{found[1]}://{text[found.end() :]}".rstrip("/")


class RemoteFiles:
    """The files under one address; may be pickled and used from several threads.

    Args:
        store: Any Zarr store that can list: `zarr.storage.ObjectStore`, `FsspecStore`, ...
        url: Its address, for messages.
        timeout_s: One answer may take so long, repetitions included.
    """

    def __init__(self, store: ZarrStore, url: str, timeout_s: float = 60.0):
        self.url = url
        self._store = store
        self._timeout_s = timeout_s

    @classmethod
    def at(cls, url: str, timeout_s: float = 60.0, **config: Any) -> RemoteFiles:
        """The files at `url`: "s3://bucket/folder", "gs://..." or "az://...".

        Args:
            url: Where the store's root file lies.
            timeout_s: One answer may take so long, repetitions included.
            config: Settings of obstore's `S3Store` (`endpoint`, `region`, `access_key_id`, `skip_signature`, ...). What
                is not given comes from the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
                AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_SKIP_SIGNATURE, AWS_ALLOW_HTTP.

        Raises:
            StoreError: If obstore is not installed, or a setting is unknown.
        """
        try:
            from obstore.store import from_url
            from zarr.storage import ObjectStore
        except ImportError as error:
            raise StoreError(
                f"{url}: reading from object storage needs obstore: pip install '.[s3]' in ForeAct's folder"
            ) from error
        options: Any = {"timeout": f"{timeout_s}s", "connect_timeout": f"{min(_CONNECT_S, timeout_s)}s"}
        if str(config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
            options["allow_http"] = True  # who names an address without TLS means it
        retry: Any = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=timeout_s)}
        try:
            store = from_url(url, client_options=options, retry_config=retry, **config)
        except Exception as error:  # obstore has many
            raise StoreError(f"{url} cannot be used: {_short(error)}. Check the address and the settings.") from error
        return cls(ObjectStore(store, read_only=True), url, timeout_s)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """A file, or its bytes [start, end); None if there is no such file.

        Raises:
            StoreError: If the storage does not answer, refuses, or gives fewer bytes than were asked for.
        """
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype

        asked = None if start is None or end is None else RangeByteRequest(start, end)
        found = self._run(self._store.get(key, default_buffer_prototype(), asked), key)
        data = None if found is None else found.to_bytes()
        if data is not None and asked is not None and len(data) != asked.end - asked.start:
            raise StoreError(
                f"{self.url}/{key}: asked for bytes {asked.start} to {asked.end}, got {len(data)}: it is shorter than "
                "its manifest says. Upload it again."
            )
        return data

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder, sorted; none if there is no such folder.

        Raises:
            StoreError: If the storage does not answer, refuses, or there is no such bucket.
        """

        async def listed() -> list[str]:
            found: AsyncIterator[str] = self._store.list_dir(f"{folder}/")
            return sorted({name.rstrip("/").rsplit("/", 1)[-1] async for name in found} - {"", folder})

        return self._run(listed(), folder)

    def _run(self, work: Coroutine[Any, Any, _T], key: str) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, _loop())
        try:
            return future.result(self._timeout_s + _CONNECT_S)
        except TimeoutError as error:
            future.cancel()
            raise StoreError(f"{self.url}/{key}: no answer within {self._timeout_s:g} s. {_HELP}") from error
        except Exception as error:  # each storage has its own
            raise StoreError(f"{self.url}/{key} could not be read: {_short(error)}. {_HELP}") from error


_HELP = (
    "Check the bucket's name, the network and the credentials (for S3: AWS_ENDPOINT_URL, AWS_REGION, "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; AWS_SKIP_SIGNATURE=true for a public bucket)."
)
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """This process's event loop for storages, in a thread of its own (a forked process has none of its parent's)."""
    with _loops_lock:
        if os.getpid() not in _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="object-storage", daemon=True).start()
            _loops[os.getpid()] = loop
        return _loops[os.getpid()]


def _short(error: Exception) -> str:
    """The first line of a message, without the dump that some libraries append."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:400].rstrip('. ')}"
