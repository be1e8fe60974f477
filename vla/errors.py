"""The base class of every error that ForeAct explains to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForeActError(Exception):
    """An error with a message for people: the thing, what was expected, what was found, what to do.

    The command line prints the message and exits with `exit_code`; no traceback is shown.
    """

    exit_code = 1


class ConfigError(ForeActError):
    """A setting is missing, unknown or out of range."""

    exit_code = 2


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """The known names in a sentence, with the nearest one first when there is a near one."""
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"known: {', '.join(names) or '(none)'}{hint}"
