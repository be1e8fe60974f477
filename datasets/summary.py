"""What a store holds, in a few numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from foreact.datasets.store import Store


def summarize(store: Store) -> dict[str, Any]:
    """Counts, sizes and names, as JSON values."""
    table = store.index
    frames = int(table.lengths.sum()) if len(table) else 0
    kinds: Counter[str] = Counter()
    codecs: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    size, segments, packs = 0, 0, set()
    for info in table:
        kinds["demonstrations" if info.has_action else "states only" if info.has_state else "video only"] += 1
        codecs[info.codec] += 1
        tasks[str(info.meta.get("task", "(no task)"))] += 1
        splits[str(info.meta.get("split", "(no split)"))] += 1
        size += info.bytes
        segments += len(info.segments)
        packs.add(info.pack)
    contract = store.contract
    return {
        "path": str(store.path),
        "episodes": len(table),
        "frames": frames,
        "hours": frames / contract.rate_hz / 3600,
        "bytes": size,
        "bytes_per_frame": size / frames if frames else 0.0,
        "packs": len(packs - {None}),
        "episodes_in_packs": sum(info.pack is not None for info in table),
        "segments": segments,
        "kinds": dict(kinds),
        "codecs": dict(codecs),
        "tasks": dict(sorted(tasks.items())),
        "splits": dict(sorted(splits.items())),
        "damaged": store.damaged,
        "hash": store.hash,
        "contract": {
            "hash": contract.hash,
            "embodiment": contract.embodiment,
            "rate_hz": contract.rate_hz,
            "cameras": {c.name: [c.height, c.width] for c in contract.cameras},
            "state": {f.name: f.size for f in contract.state},
            "action": {f.name: f.size for f in contract.action},
        },
    }
