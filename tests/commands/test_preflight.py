"""`foreact preflight`: a table that agrees with the border itself, at once, and without torch."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreact.commands.main import app, run
from foreact.sim.embodiment import desk_contract
from foreact.vla.contract import Contract, ContractMismatch, adapt
from foreact.vla.preflight import BadCheckpoint, compare, read_head

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"


def _contract_file(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "robot.yaml"
    path.write_text(desk_contract().model_copy(update=changes).to_yaml())
    return path


def test_the_shipped_policy_fits_the_desk(capsys) -> None:
    assert run(app, ["preflight", str(SHIPPED), "--env", "desk"]) == 0
    shown = capsys.readouterr().out
    assert "rgb_static" in shown and "adapted" in shown and "does not fit" not in shown


def test_every_difference_has_its_line_and_advice(tmp_path: Path, capsys) -> None:
    desk = desk_contract()
    cameras = tuple(c.model_copy(update={"name": c.name.replace("rgb_static", "rgb_statc")}) for c in desk.cameras)
    state = tuple(f.model_copy(update={"unit": "mm"} if f.name == "tcp_position" else {}) for f in desk.state)
    path = _contract_file(tmp_path, cameras=cameras, state=state, rate_hz=15.0, embodiment="ur5e")
    assert run(app, ["preflight", str(SHIPPED), "--contract", str(path), "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["fits"] is False
    wrong = {line["what"]: line["advice"] for line in found["lines"] if line["verdict"] == "does not fit"}
    assert set(wrong) == {"embodiment", "control rate", "camera rgb_static", "state tcp_position"}
    assert "did you mean 'rgb_statc'" in wrong["camera rgb_static"]
    assert wrong["state tcp_position"] == "differs in unit"
    assert "4 of" in printed.err


@given(data=st.data())
def test_it_agrees_with_the_border(data) -> None:
    """Whatever is changed on one side, the table says "does not fit" exactly where `adapt` refuses."""
    desk = desk_contract()
    changes: dict[str, object] = {}
    if data.draw(st.booleans()):
        changes["rate_hz"] = data.draw(st.sampled_from([30.0, 15.0]))
    if data.draw(st.booleans()):
        changes["gripper"] = data.draw(st.sampled_from(["none", "-1 open, +1 close", "+1 open, -1 close"]))
    for kind in ("state", "action"):
        fields = list(getattr(desk, kind))
        keep = data.draw(st.lists(st.sampled_from(range(len(fields))), min_size=1, unique=True))
        edited = []
        for number in keep:
            key = data.draw(st.sampled_from(["", "unit", "frame", "low", "high", "rotation", "relative", "size"]))
            value = {
                "unit": "mm",
                "frame": "x",
                "low": -0.5,
                "high": 5.0,
                "rotation": "rotvec",
                "relative": True,
                "size": 2,
            }
            edited.append(fields[number].model_copy(update={key: value[key]} if key else {}))
        changes[kind] = tuple(edited)
    offered = desk.model_copy(update=changes)
    fits = all(line.verdict != "does not fit" for line in compare(desk, offered))
    try:
        adapt(desk, offered, required_by="a", offered_by="b")
        agreed = True
    except ContractMismatch:
        agreed = False
    assert fits == agreed


def test_it_needs_no_torch_and_takes_under_a_second_of_processor_time() -> None:
    code = (
        "import sys, time\n"
        "from foreact.commands.main import app, run\n"
        f"status = run(app, ['preflight', {str(SHIPPED)!r}, '--env', 'desk'])\n"
        "heavy = [m for m in ('torch', 'mujoco', 'transformers', 'zarr') if m in sys.modules]\n"
        "print('HEAVY', heavy, status, time.process_time())\n"
    )
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "HEAVY [] 0" in out
    assert float(out.split()[-1]) < 1.0
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "one of --store"),
        (["--env", "desk", "--store", "x"], "one of --store"),
        (["--env", "dsk"], "did you mean 'desk'"),
        (["--store", "nowhere"], "no trajectory store"),
        (["--contract", "nowhere.yaml"], "no contract"),
    ],
)
def test_wrong_use_is_explained(argv: list[str], says: str, capsys) -> None:
    assert run(app, ["preflight", str(SHIPPED), *argv]) != 0
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    import shutil

    with pytest.raises(BadCheckpoint, match="no checkpoint folder"):
        read_head(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match=r"manifest\.json"):
        read_head(tmp_path / "empty")
    broken = tmp_path / "broken"
    shutil.copytree(SHIPPED, broken)
    weights = broken / "model.safetensors"
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(BadCheckpoint, match="has 100 bytes"):
        read_head(broken)
    assert isinstance(read_head(SHIPPED).contract, Contract)
