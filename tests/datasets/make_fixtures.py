"""Makes the stores in `fixtures/` once per format version; those of released versions are never made again.

PYTHONPATH=src python tests/datasets/make_fixtures.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode

FIXTURES = Path(__file__).parent / "fixtures"
CODECS = {"zstd": "zstd", "jpeg": "jpeg"}


def main() -> None:
    """Write `store_v1_folders` and `store_v1_packed`: two episodes per codec, one of them action-free."""
    for kind in ("folders", "packed"):
        path = FIXTURES / f"store_v1_{kind}"
        shutil.rmtree(path, ignore_errors=True)
        for codec, spec in CODECS.items():
            recorder = Recorder(path, SELFTEST_CONTRACT, codec=spec)
            for name in ("n6", "n3"):
                episode = make_episode(name)
                recorder.write(episode, name=f"{codec}-{name}")
        if kind == "packed":
            pack_store(path)
        for part in (".staging", ".pack.lock", "index.bin"):
            target = path / part
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    print(sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file()), "bytes")


if __name__ == "__main__":
    main()
