"""What all clients of policy servers have in common. Needs NumPy, and neither torch nor a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from foreact.vla.errors import ConfigError, ForeActError


class PolicyServerError(ForeActError):
    """A policy server is not there, refuses, or does not answer."""


class ServerLost(PolicyServerError):
    """The connection is gone, or never came about."""


class ServerTimeout(PolicyServerError):
    """The server is there but does not answer in time."""


class ServerRefused(PolicyServerError):
    """The server answered that it will not."""


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How long a client waits."""

    connect_timeout_s: float = 5.0
    """For a connection, and the server's first words."""
    request_timeout_s: float = 5.0
    """From a request to its whole reply."""
    heartbeat_s: float = 0.05
    """Between two signs of life."""
    silence_s: float = 1.0
    """Without a sign of life for so long, the server counts as gone."""
    reconnect: bool = True
    """Whether a request after a loss connects again; what the server remembered is then forgotten."""
    token: str | None = None
    """The server's secret."""
    tls_ca: str = ""
    """File with the certificate to trust; empty: those that the system trusts."""


class PolicyClient(Protocol):
    """One connection, made again by the next request after it was lost. Any thread may call any method, but there is
    one request at a time."""

    metadata: Mapping[str, Any]
    """What the server said of itself; that of a ForeAct has `server`: "foreact"."""

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one reply, under our names (docs/serving.md).

        Raises:
            PolicyServerError: If there is no reply within the time limit, or it says no.
        """
        ...

    def alive(self) -> bool:
        """Whether the server showed signs of life lately; returns at once."""
        ...

    def close(self) -> None:
        """Hang up. A request that waits fails."""
        ...


def connect(
    url: str, settings: ClientSettings | None = None, *, on_lost: Callable[[str], None] | None = None
) -> PolicyClient:
    """A client for a URL: `ws://host:port` and `wss://...` speak openpi's dialect, `zmq+tcp://host:port` GR00T's.

    Args:
        url: Where the server is.
        settings: How long to wait.
        on_lost: Told once, from another thread, why the server counts as gone.

    Raises:
        ConfigError: If the URL is none of these.
        PolicyServerError: If nobody answers there.
    """
    settings = settings or ClientSettings()
    scheme, _, address = url.partition("://")
    if address and scheme in ("ws", "wss"):
        from foreact.vla.serving.openpi_client import OpenPiClient

        return OpenPiClient(url, settings, on_lost=on_lost)
    if address and scheme == "zmq+tcp":
        from foreact.vla.serving.gr00t_client import Gr00tClient

        return Gr00tClient(f"tcp://{address}", settings, on_lost=on_lost)
    raise ConfigError(f"url {url!r}: expected ws://HOST:PORT, wss://HOST:PORT (openpi) or zmq+tcp://HOST:PORT (GR00T)")
