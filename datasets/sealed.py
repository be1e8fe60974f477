"""JSON files that carry the SHA-256 of themselves, so that no flipped bit in them goes unseen.

A sealed file is a JSON object whose last member is `sha256`: the digest of every byte before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_TAIL = b',"sha256":"%s"}\n'
_TAIL_SIZE = len(_TAIL) - 2 + 64


class BrokenSeal(ValueError):
    """The bytes of a sealed file are not those that were written; the message says how."""


def seal(content: Mapping[str, Any]) -> bytes:
    """Serialise a non-empty mapping and append the digest of what was serialised.

    Raises:
        ValueError: If a number is not finite, since JSON cannot hold it.
    """
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return body + _TAIL % hashlib.sha256(body).hexdigest().encode()


def unseal(data: bytes) -> dict[str, Any]:
    """Check the digest and return the content, without the digest.

    Raises:
        BrokenSeal: If any byte is wrong, missing or added.
    """
    body, tail = data[:-_TAIL_SIZE], data[-_TAIL_SIZE:]
    if tail != _TAIL % hashlib.sha256(body).hexdigest().encode():
        raise BrokenSeal("its contents do not match the SHA-256 it ends with")
    return json.loads(body + b"}")


def digest(data: bytes) -> str:
    """The 64 hex digits that end a sealed file: they name its whole contents."""
    return data[-len('"}\n') - 64 : -len('"}\n')].decode("ascii", "replace")
