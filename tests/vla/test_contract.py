"""The contract: identity, the fixture of its format, and what a border lets through, adapts or refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreact.vla.contract import Camera, Contract, ContractError, ContractMismatch, Field, adapt

FIXTURE = Path(__file__).parent / "fixtures" / "contract_v1.yaml"
"""The desk's contract as version 1 wrote it; it must be readable for ever, with the same hash."""
FIXTURE_HASH = "bc319f6b340d32ed"


def small(**changes: object) -> Contract:
    """Two cameras, three state fields, two action fields."""
    parts: dict[str, object] = {
        "embodiment": "arm",
        "rate_hz": 30.0,
        "cameras": (Camera(name="front", height=40, width=60), Camera(name="hand", height=20, width=20)),
        "state": (
            Field(name="pos", size=3, unit="m", frame="base"),
            Field(name="joints", size=7, unit="rad"),
            Field(name="width", size=1, unit="m"),
        ),
        "action": (
            Field(name="move", size=3, unit="0.02 m", frame="base", low=-1, high=1, relative=True),
            Field(name="gripper", size=1, unit="1", low=-1, high=1),
        ),
        "gripper": "+1 open, -1 close",
    }
    return Contract.model_validate(parts | changes)


def test_the_fixture_of_version_1_opens_with_the_same_identity():
    contract = Contract.load(FIXTURE)
    assert contract.hash == FIXTURE_HASH
    assert (contract.state_size, contract.action_size) == (15, 7)


def test_yaml_keeps_identity_and_any_change_changes_it():
    contract = small()
    assert Contract.from_yaml(contract.to_yaml()) == contract
    assert Contract.from_yaml(contract.to_yaml()).hash == contract.hash
    others = [
        small(rate_hz=20.0),
        small(cameras=contract.cameras[::-1]),
        small(state=contract.state[::-1]),
        small(gripper="-1 open, +1 close"),
    ]
    assert len({contract.hash, *(other.hash for other in others)}) == 5


@given(order=st.permutations([0, 1, 2]), take=st.integers(1, 3))
def test_required_state_is_found_by_name_whatever_the_order(order: list[int], take: int):
    offered = small()
    required = small(state=tuple(offered.state[i] for i in order[:take]))
    # Every number names its own field and place, so any mix-up shows.
    vector = np.concatenate([100.0 * i + np.arange(field.size) for i, field in enumerate(offered.state)])
    found = adapt(required, offered, required_by="policy", offered_by="robot").state(vector)
    expected = np.concatenate([100.0 * i + np.arange(offered.state[i].size) for i in order[:take]])
    assert np.array_equal(found, expected)


def test_identical_contracts_need_no_adaptation():
    adapter = adapt(small(), small(), required_by="a", offered_by="b")
    assert adapter.notes == ()
    assert adapter.resize == {"front": (40, 60), "hand": (20, 20)}


def test_each_adaptation_is_told_once():
    required = small(cameras=(Camera(name="hand", height=10, width=10),), state=small().state[2:])
    adapter = adapt(required, small(), required_by="a", offered_by="b")
    assert adapter.notes == ("resize hand from 20x20 to 10x10 pixels", "state: take 1 of 11 numbers")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embodiment": "leg"}, "embodiment: required 'leg', offered 'arm'"),
        ({"rate_hz": 10.0}, "rate_hz: required 10.0, offered 30.0"),
        ({"gripper": "-1 open, +1 close"}, "gripper: required"),
        ({"cameras": (Camera(name="frnt", height=4, width=4),)}, "did you mean 'front'"),
        ({"state": (Field(name="pos", size=3, unit="mm", frame="base"),)}, "unit required 'mm', offered 'm'"),
        ({"state": (Field(name="pos", size=3, unit="m", frame="world"),)}, "frame required 'world', offered 'base'"),
        ({"state": (Field(name="tcp", size=3, unit="m"),)}, "state field 'tcp' is missing"),
        (
            {"action": (Field(name="move", size=3, unit="0.02 m", frame="base", low=-2, high=1, relative=True),)},
            "low required -2.0, offered -1.0",
        ),
        (
            {"action": (Field(name="move", size=3, unit="0.02 m", frame="base", low=-1, high=1),)},
            "relative required False, offered True",
        ),
    ],
)
def test_what_cannot_be_bridged_is_named(change: dict[str, object], words: str):
    with pytest.raises(ContractMismatch) as caught:
        adapt(small(**change), small(), required_by="checkpoint x", offered_by="robot y")
    assert words in str(caught.value)
    assert str(caught.value).startswith("checkpoint x does not fit robot y")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 2", "contract version 2"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "is not YAML"),
        ("version: 1\nembodiment: arm\nrate_hz: -3\ncameras: []", "rate_hz"),
        ("version: 1\nembodiment: arm\nrate_hz: 3\ncameras: []\nsped: 1", "sped"),
        (
            "version: 1\nembodiment: a\nrate_hz: 3\ncameras: [{name: c, height: 1, width: 1}, "
            "{name: c, height: 1, width: 1}]",
            "names must be unique",
        ),
    ],
)
def test_a_bad_file_is_explained(text: str, words: str, tmp_path: Path):
    (tmp_path / "contract.yaml").write_text(text)
    with pytest.raises(ContractError) as caught:
        Contract.load(tmp_path / "contract.yaml")
    assert words in str(caught.value)


def test_a_missing_file_is_explained(tmp_path: Path):
    with pytest.raises(ContractError, match="no contract at"):
        Contract.load(tmp_path / "none.yaml")
