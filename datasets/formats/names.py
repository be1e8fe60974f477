"""Foreign names made safe: as episode names, as camera names, as fields of a contract."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe_name(text: str, limit: int = 100) -> str:
    """`text` with everything but letters, digits, '.', '_' and '-' replaced, as a store allows it."""
    name = _UNSAFE.sub("_", text)[:limit].strip("._-")
    return name or "unnamed"


def unique_names(texts: Iterable[str]) -> list[str]:
    """Safe names in the same order; one that is taken gets a number, the same at every call."""
    taken: set[str] = set()
    found = []
    for text in texts:
        base = name = safe_name(text)
        number = 2
        while name in taken:
            name = f"{base}-{number}"
            number += 1
        taken.add(name)
        found.append(name)
    return found
