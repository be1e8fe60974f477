"""`foreact convert-checkpoint`: published weights of the GR-1 family become a checkpoint folder. See docs/gr1.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from foreact.vla.errors import ConfigError


def run(source: str, target: str, *, towers: str, clip: str, mae: str, as_json: bool) -> None:
    """Convert and say what was taken from where.

    Raises:
        ForeActError: If the file cannot be read, or is not one of those that can be converted.
        ConfigError: If a tower is missing or named twice.
    """
    from foreact.policies.gr1.published_import import convert_checkpoint

    if towers and (clip or mae):
        raise ConfigError("--towers brings both towers; leave out --clip and --mae")

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    done = convert_checkpoint(Path(source), Path(target), towers=path(towers), clip=path(clip), mae=path(mae))
    if as_json:
        print(json.dumps({"checkpoint": target, **asdict(done)}, indent=1))
        return
    groups = ", ".join(dict.fromkeys(name.split(".")[0] for name in done.ignored)) or "nothing"
    print(f"{source} is {done.title} (SHA-256 {done.sha256[:16]}...)")
    print(f"tensors taken: {done.taken}; left out: {len(done.ignored)} ({groups})")
    for line in done.towers:
        print(f"  {line}")
    print(f"trainable parameters: {done.trainable:,}")
    print(f"the policy is in {target}; its README.md says what it is and under which licences")
