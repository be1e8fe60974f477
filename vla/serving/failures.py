"""What a client is told when something goes wrong: a sentence; never a traceback, a path or a piece of memory."""

from __future__ import annotations

import logging
import secrets

from foreact.vla.errors import ForeActError

LOG = logging.getLogger("foreact.serving")


class TimedOut(ForeActError):
    """An inference took too long."""


def told(error: BaseException) -> str:
    """The sentence for a client. What it cannot mend is written to the log, under the id that the sentence names."""
    if isinstance(error, ForeActError):
        return str(error)
    name = secrets.token_hex(4)
    LOG.error("error %s", name, exc_info=error)
    return f"the server failed at this request; its log says why, under {name}"
