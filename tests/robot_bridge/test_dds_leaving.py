"""Participants that leave a DDS domain: their nodes' names go with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import make_topics

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install '.[robot]'")

from foreact.robot_bridge.dds_node import DdsNode

SCOPE = NetworkScope(domain_id=102 + os.getpid() % 100)
SPECS = [s for s in make_topics({}, [], ("a1", "a2")).specs() if s.role in ("joints", "state")]


def until(what: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_the_names_of_those_who_left_are_forgotten() -> None:
    def known(name: str) -> int:
        stays.reports()
        return list(stays._names.values()).count(name)

    stays = DdsNode("stays", scope=SCOPE)
    stays.open(SPECS, lambda *_: None)
    try:
        for number in range(3):
            other = DdsNode(f"other_{number}", scope=SCOPE)
            other.open([spec.reversed() for spec in SPECS], lambda *_: None)
            until(lambda name=f"/other_{number}": known(name) == len(SPECS))
            for _ in range(5):  # who is there is not forgotten
                assert known(f"/other_{number}") == len(SPECS)
            other.close()
            until(lambda name=f"/other_{number}": known(name) == 0)
        assert known("/stays") == len(SPECS)
        assert len(stays._participants) == 1 and len(stays._present) == 1
    finally:
        stays.close()
