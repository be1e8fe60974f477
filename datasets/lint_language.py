"""Rules about language, segments and length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from foreact.datasets.lint_base import EpisodeScan, Found, Rule

_PLACEHOLDER = re.compile(
    r"(todo|tbd|test|none|null|nan|n/?a|unknown|untitled|instruction|task|language instruction|\?+|\.+|-+|x+)", re.I
)
_MOJIBAKE = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00e2\u0080")
_MARKUP = re.compile(r"</?[a-zA-Z][^>]*>|&[a-z]+;|\\[nt\"]|\{[^}]*\}")


def texts(scan: EpisodeScan) -> Iterator[tuple[int | None, int | None, str]]:
    """Every sentence of an episode with its frames."""
    if scan.info.instruction:
        yield None, None, scan.info.instruction
    for segment in scan.info.segments:
        yield segment.start, segment.end, segment.instruction


def oddity(text: str) -> str:
    """What is odd about a sentence, or nothing."""
    strange = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs")]
    if strange:
        return f"has the invisible character U+{ord(strange[0]):04X}"
    if _MOJIBAKE.search(text):
        return "was read with a wrong encoding"
    if _MARKUP.search(text):
        return "holds markup, an escape or an unfilled template"
    if _PLACEHOLDER.fullmatch(text.strip()):
        return "is a placeholder"
    if text != text.strip() or "  " in text:
        return "has spaces at an end, or two in a row"
    if not any(unicodedata.category(c).startswith("L") for c in text):
        return "has no letter"
    if text != unicodedata.normalize("NFC", text):
        return "has letters in decomposed form (not NFC): equal sentences will differ"
    return ""


def _missing(scan: EpisodeScan) -> Iterator[Found]:
    play = scan.info.meta.get("task") == "play"
    if scan.action is not None and not play and not any(text.strip() for _, _, text in texts(scan)):
        yield None, None, "actions without a sentence: neither an instruction nor a segment has one"


def _odd(scan: EpisodeScan) -> Iterator[Found]:
    for start, end, text in texts(scan):
        if what := oddity(text):
            yield start, end, f"the sentence {text!r:.100} {what}"
    for segment in scan.info.segments:
        if not segment.instruction:
            yield segment.start, segment.end, "a segment without a sentence"


def _long(scan: EpisodeScan) -> Iterator[Found]:
    for start, end, text in texts(scan):
        if len(text) > scan.limits.text_chars:
            yield start, end, f"the sentence {text!r:.60} has {len(text)} characters; tokenizers cut such"


def _short_segment(scan: EpisodeScan) -> Iterator[Found]:
    for segment in scan.info.segments:
        seconds = (segment.end - segment.start) / scan.contract.rate_hz
        if seconds < scan.limits.short_s:
            yield segment.start, segment.end, f"a segment of {seconds:.2f} s: {segment.instruction!r:.80}"


def _short(scan: EpisodeScan) -> Iterator[Found]:
    length, rate = scan.info.length, scan.contract.rate_hz
    if length < scan.limits.short_frames or length / rate < scan.limits.short_s:
        yield None, None, f"{length} frames ({length / rate:.2f} s): too short for anything to be learned from it"


def _endless(scan: EpisodeScan) -> Iterator[Found]:
    seconds = scan.info.length / scan.contract.rate_hz
    if seconds > scan.limits.long_s and scan.info.instruction and not scan.info.segments:
        yield None, None, f"one instruction for {seconds:.0f} s, without segments"


LANGUAGE_RULES = (
    Rule("language-missing", "warning", "actions without a sentence (play is exempt)", _missing),
    Rule("language-odd", "warning", "invisible characters, wrong encoding, markup, placeholders, spaces", _odd),
    Rule("language-long", "warning", "a very long sentence", _long),
    Rule("segment-short", "warning", "a segment that hardly lasts", _short_segment),
    Rule("episode-short", "warning", "an episode that hardly lasts", _short),
    Rule("episode-long", "warning", "one instruction for minutes, without segments", _endless),
)
