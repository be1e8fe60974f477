"""Code blocks of Markdown pages, for the tests that run them."""

from __future__ import annotations

import re


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, contents) of the fenced code blocks in their order; the language is "" where none is named."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """The command lines of a block; continued lines are joined, and comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
