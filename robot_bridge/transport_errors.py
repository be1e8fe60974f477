"""What can be wrong with a way to the robot, and with what comes along it."""

from __future__ import annotations

from foreact.vla.errors import ForeActError


class TransportError(ForeActError):
    """A way to the robot cannot be opened, or is not what it should be."""


class BadMessage(ForeActError):
    """A message is not what its topic promises."""
