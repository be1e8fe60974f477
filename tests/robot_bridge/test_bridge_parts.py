"""What the bridge is made of: the policy's thread, the mailbox, what the policy is shown, foresight, robot files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bridge_chain import small_robot

from foreact.robot_bridge.assemble import PolicyDoesNotFit, gate_settings, policy_contract
from foreact.robot_bridge.config import load_robot, robot_names
from foreact.robot_bridge.foresight_watch import ForesightWatch, expected_frames
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.mailbox import Mailbox
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import PolicyThread, Question
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode
from foreact.sim.embodiment import desk_contract
from foreact.sim.env import DeskEnv
from foreact.vla.contract import ContractMismatch
from foreact.vla.errors import ConfigError, ForeActError

# ---- the policy's thread ---------------------------------------------------------------------------------------------


class Client:
    """A `PolicyClient` whose server does as the test says."""

    def __init__(self, work: Callable[[Mapping[str, Any]], Any] = lambda request: {"of": request["n"]}):
        self.metadata: Mapping[str, Any] = {"name": "a"}
        self.work, self.there = work, True
        self.closed = threading.Event()

    def infer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.work(request)

    def alive(self) -> bool:
        return self.there

    def close(self) -> None:
        self.there = False
        self.closed.set()


def question(n: int) -> Question:
    return Question(kind="plan", request={"n": n}, step=n, observed_s=0.0, instruction_id=1, asked_s=0.0)


def wait_for(what: Callable[[], Any], seconds: float = 5.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
    return found


@contextmanager
def thread(*clients: Client) -> Iterator[PolicyThread]:
    waiting = iter(clients)
    policy = PolicyThread(lambda: next(waiting))
    policy.connect()
    try:
        yield policy
    finally:
        policy.close()


def test_questions_are_answered_in_their_order() -> None:
    with thread(Client()) as policy:
        assert policy.alive
        for n in range(8):
            assert policy.ask(question(n))
        answers: list[Any] = []
        wait_for(lambda: answers.extend(policy.answers()) or len(answers) == 8)
        assert [a.reply["of"] for a in answers] == list(range(8))
        assert all(a.error == "" and a.took_s >= 0.0 for a in answers)
        assert not policy.busy


def test_it_is_busy_from_the_question_to_the_answer_without_a_gap() -> None:
    go = threading.Event()
    with thread(Client(lambda request: go.wait(5.0) and {})) as policy:
        policy.ask(question(1))
        for _ in range(2000):  # also while the thread takes it from the queue
            assert policy.busy
        go.set()
        wait_for(lambda: not policy.busy)
        assert len(policy.answers()) == 1


@pytest.mark.fault("S14", n=1, event="the policy server stops answering: the gate's thread never waits for it")
def test_a_stalled_server_costs_the_gate_no_time() -> None:
    client = Client(lambda request: client.closed.wait(5.0) and {})
    with thread(client) as policy:
        began = time.monotonic()
        taken = [policy.ask(question(n)) for n in range(20)]
        policy.answers()
        assert policy.busy
        assert time.monotonic() - began < 0.1
        assert 8 <= sum(taken) <= 9  # one is being asked, eight wait, the others are refused


@pytest.mark.fault("S14", n=2, event="the policy server refuses, or its client fails")
@pytest.mark.parametrize("error", [ForeActError("the server refuses: too long"), RuntimeError("broken")])
def test_a_failure_is_an_answer_and_the_thread_lives_on(error: Exception) -> None:
    def work(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request["n"] == 0:
            raise error
        return {}

    with thread(Client(work)) as policy:
        policy.ask(question(0))
        policy.ask(question(1))
        answers: list[Any] = []
        wait_for(lambda: answers.extend(policy.answers()) or len(answers) == 2)
        assert str(error) in answers[0].error
        assert answers[0].reply is None
        assert answers[1].error == ""


def test_after_connecting_again_the_old_server_has_no_say() -> None:
    go = threading.Event()
    old, new = Client(lambda request: go.wait(5.0) and {"from": "old"}), Client(lambda request: {"from": "new"})
    with thread(old, new) as policy:
        policy.ask(question(1))
        go_later = threading.Timer(0.05, go.set)
        go_later.start()
        policy.connect()
        assert not policy.busy
        policy.ask(question(2))
        answers: list[Any] = []
        wait_for(lambda: answers.extend(policy.answers()) or answers)
        time.sleep(0.1)
        answers += policy.answers()
        assert [a.reply["from"] for a in answers] == ["new"]


def test_connecting_again_later_keeps_nobody_waiting() -> None:
    old, new, go = Client(), Client(lambda request: {"from": "new"}), threading.Event()

    def slow() -> Client:
        go.wait(5.0)
        return new

    clients = iter([lambda: old, slow])
    policy = PolicyThread(lambda: next(clients)())
    policy.connect()
    assert policy.connected() is None  # nothing was asked for
    began = time.monotonic()
    policy.connect_later()
    assert policy.connected() is None and not policy.alive and not policy.ask(question(1))
    assert time.monotonic() - began < 0.1
    go.set()
    assert wait_for(policy.connected) == new.metadata and old.closed.is_set() and policy.alive
    assert policy.ask(question(2))
    assert wait_for(policy.answers)[0].reply == {"from": "new"}
    policy.close()


def test_connecting_again_later_may_fail_and_be_tried_again() -> None:
    def nobody() -> Client:
        raise OSError("no route")

    clients = iter([Client, nobody, Client])
    policy = PolicyThread(lambda: next(clients)())
    policy.connect()
    policy.connect_later()
    with pytest.raises(ForeActError, match="no route"):
        wait_for(policy.connected)
    assert not policy.alive and policy.connected() is None
    policy.connect_later()
    assert wait_for(policy.connected) and policy.alive
    policy.close()


def test_hanging_up_while_it_connects_leaves_no_connection() -> None:
    go, late = threading.Event(), Client()

    def slow() -> Client:
        go.wait(5.0)
        return late

    clients = iter([Client, slow])
    policy = PolicyThread(lambda: next(clients)())
    policy.connect()
    policy.connect_later()
    threading.Timer(0.1, go.set).start()
    policy.close()
    assert wait_for(late.closed.is_set) and not policy.alive and policy.connected() is None


def test_closing_while_questions_wait_never_fails() -> None:
    for _ in range(200):
        with thread(Client(lambda request: {})) as policy:
            for n in range(8):
                policy.ask(question(n))
    assert not policy.alive
    assert not policy.ask(question(1))


def test_signs_of_life_are_those_of_the_client_if_it_tells() -> None:
    client = Client()
    with thread(client) as policy:
        assert policy.heard_s == pytest.approx(time.monotonic(), abs=0.5)
        client.heard_s = 12.0  # type: ignore[attr-defined]
        assert policy.heard_s == 12.0


# ---- the mailbox -----------------------------------------------------------------------------------------------------


def frame(n: int, camera: str = "rgb_static") -> CameraFrame:
    image = np.zeros((24, 32, 3), np.uint8)
    return CameraFrame(camera=camera, image=image, stamp_s=n, received_s=n, sequence=n)


def sample(n: int = 0, q: np.ndarray | None = None) -> JointSample:
    q = np.zeros(7) if q is None else q
    return JointSample(position=q, velocity=np.zeros(7), gripper_width_m=0.03, stamp_s=n, received_s=n)


def test_all_mail_comes_once_in_order() -> None:
    box = Mailbox()
    for n in range(5):
        box.frame(frame(n))
        box.joints(sample(n))
        box.instruction(f"words {n}", n)
        box.mode(RobotMode.OK, n)
        box.bad_message("joints", "bad", n)
    mail = box.take()
    assert [f.sequence for f in mail.frames] == [s.stamp_s for s in mail.joints] == list(range(5))
    assert [t for t, _ in mail.instructions] == [f"words {n}" for n in range(5)]
    assert len(mail.modes) == len(mail.bad) == 5
    assert box.dropped == 0
    empty = box.take()
    assert not (empty.frames or empty.joints or empty.instructions or empty.modes or empty.bad or empty.calls)


def test_what_nobody_fetches_is_dropped_oldest_first_and_counted() -> None:
    box = Mailbox(frames=8)
    for n in range(100):
        box.frame(frame(n))
    assert [f.sequence for f in box.take().frames] == list(range(92, 100))
    assert box.dropped == 92


def test_nothing_is_lost_between_threads() -> None:
    box, got = Mailbox(frames=10_000), []
    senders = [threading.Thread(target=lambda: [box.joints(sample(n)) for n in range(500)]) for _ in range(4)]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        got += box.take().joints
    got += box.take().joints
    assert len(got) == 2000
    assert box.dropped == 0


def test_a_call_waits_for_its_answer_and_says_when_there_is_none() -> None:
    box, found = Mailbox(), []
    caller = threading.Thread(target=lambda: found.append(box.command("arm", True)))
    caller.start()
    call = wait_for(lambda: box.take().calls)[0]
    assert (call.name, call.value) == ("arm", True)
    call.answer(True, "armed")
    caller.join()
    assert found == [(True, "armed")]
    began = time.monotonic()
    assert box.command("stop", True)[0] is False
    assert time.monotonic() - began < 2.0
    assert box.take().calls[0].given_up


# ---- what the policy is shown ----------------------------------------------------------------------------------------


def test_the_state_is_the_one_that_the_policy_was_trained_on() -> None:
    """The same joints in the simulator that made the demonstrations, and through the bridge's own kinematics."""
    env, robot = DeskEnv("D", render=False), load_robot("desk_sim")
    observer = Observer.of_robot(robot)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        names = [f.name for f in env.contract.state]
        sizes = np.cumsum([0, *(f.size for f in env.contract.state)])
        state = observation["robot_obs"]  # CALVIN's fifteen numbers, in the order of the desk's contract
        theirs = {n: state[a:b] for n, a, b in zip(names, sizes, sizes[1:], strict=False)}
        measured = JointSample(
            position=theirs["joint_position"].astype(np.float64), velocity=None,
            gripper_width_m=float(theirs["gripper_width"][0]), stamp_s=0.0, received_s=0.0,
        )  # fmt: skip
        ours = observer.state(measured, float(theirs["gripper_command"][0]))
        order = np.concatenate([theirs[f.name] for f in robot.contract.state])
        np.testing.assert_allclose(ours, order, atol=2e-4)


def test_pictures_are_resized_to_what_the_policy_wants() -> None:
    robot = small_robot()
    required = robot.contract.model_copy(
        update={"cameras": tuple(c.model_copy(update={"height": 12, "width": 16}) for c in robot.contract.cameras)}
    )
    observer = Observer(robot, Kinematics(robot.arm()), required)
    images = observer.images({name: frame(0, name) for name in observer.cameras})
    assert {image.shape for image in images.values()} == {(12, 16, 3)}


def test_a_robot_that_offers_a_state_nobody_can_compute_is_refused() -> None:
    robot = small_robot()
    odd = robot.contract.state[0].model_copy(update={"name": "tcp_positon"})
    contract = robot.contract.model_copy(update={"state": (odd, *robot.contract.state[1:])})
    with pytest.raises(ContractMismatch, match="tcp_position"):
        Observer.of_robot(robot.model_copy(update={"contract": contract}))


def test_a_state_field_of_another_size_than_the_arm_has_is_refused() -> None:
    robot = small_robot()
    fields = [f.model_copy(update={"size": 6}) if f.name == "joint_position" else f for f in robot.contract.state]
    contract = robot.contract.model_copy(update={"state": tuple(fields)})
    observer = Observer.of_robot(robot.model_copy(update={"contract": contract}))
    with pytest.raises(ContractMismatch, match="7 numbers on this arm"):
        observer.robot_state(sample(), 1.0)


@pytest.mark.fault("B21", n=3, event="the policy requires other cameras, state or actions than the robot offers")
@pytest.mark.parametrize("part", ["cameras", "state", "action"])
def test_a_policy_of_another_robot_is_refused_by_name(part: str) -> None:
    robot = small_robot()
    first, *rest = getattr(robot.contract, part)
    required = robot.contract.model_copy(update={part: (first.model_copy(update={"name": "other"}), *rest)})
    with pytest.raises(ContractMismatch, match="other"):
        Observer(robot, Kinematics(robot.arm()), required)


# ---- foresight -------------------------------------------------------------------------------------------------------


def grey(level: int) -> dict[str, np.ndarray]:
    return {"a": np.full((10, 10, 3), level, np.uint8)}


def test_a_ratio_says_how_much_better_than_nothing_changes() -> None:
    watch = ForesightWatch(window=2)
    watch.expect(2, grey(150), grey(100))
    assert watch.see(1, grey(120)) is None
    # it becomes 200: errors of 50 beside 100
    assert watch.see(2, grey(200)) == pytest.approx(0.5, rel=0.1) or watch.ratio is None
    assert watch.ratio is None  # one comparison is not enough
    watch.expect(3, grey(150), grey(100))
    watch.see(3, grey(200))
    assert watch.ratio is not None
    assert watch.ratio < 1.0
    assert not watch.warns
    watch.reset()
    assert watch.ratio is None


def test_expectations_of_steps_that_were_missed_are_forgotten() -> None:
    watch = ForesightWatch(window=1)
    watch.expect(2, grey(150), grey(100))
    watch.expect(4, grey(0), grey(100))
    assert watch.see(3, grey(200)) is None
    ratio = watch.see(4, grey(200))
    assert ratio is not None
    assert ratio > 1.0
    assert watch.warns


def test_nothing_is_said_where_nothing_changes() -> None:
    watch = ForesightWatch(window=1)
    watch.expect(2, grey(150), grey(100))
    assert watch.see(2, grey(100)) is None
    assert not watch.warns


def test_only_pictures_that_can_be_compared_are_taken_from_a_reply() -> None:
    now = {"a": np.zeros((4, 4, 3), np.uint8), "b": np.zeros((4, 4, 3), np.uint8)}
    good = np.ones((4, 4, 3), np.uint8)
    reply = {"foresight/a": good, "foresight/b": good[:2], "foresight/c": good, "other": good}
    assert list(expected_frames(reply, now)) == ["a"]
    assert expected_frames({"foresight/a": good.astype(float), "foresight/b": None}, now) == {}


# ---- robot files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", robot_names())
def test_every_robot_file_that_comes_with_the_package_is_whole(name: str) -> None:
    from foreact.robot_bridge.arm_ik import IkSettings

    robot = load_robot(name)
    arm = robot.arm()
    assert len(robot.topic_names().arm_joints) == len(arm.joints)
    assert gate_settings(robot).period_s == pytest.approx(robot.period_s)
    IkSettings.from_mapping(robot.ik)
    Observer.of_robot(robot)


def test_the_desk_as_a_robot_offers_what_policies_of_the_desk_require() -> None:
    robot = load_robot("desk_sim")
    Observer(robot, Kinematics(robot.arm()), desk_contract())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"speed_scale": 1.5}, "speed_scale"),
        ({"sped_scale": 0.5}, "sped_scale"),
        ({"policy": {"timeout_s": 0}}, "policy.timeout_s"),
        ({"contract": {"cameras": []}}, "contract"),
        ({"output": "magic"}, "output"),
    ],
)
def test_a_wrong_entry_of_a_robot_file_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "robot_bridge/robots/desk_sim.yaml").read_text()
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | change))
    with pytest.raises(ConfigError, match=named):
        load_robot(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("- 1", "expected a mapping"), ("a: [", "not YAML"), ("a: 1\n" * 300_000, "no robot file"), ("", "mapping")],
)
def test_what_is_no_robot_file_is_refused(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        load_robot(path)


def test_a_misspelt_robot_is_answered_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="desk_sim"):
        load_robot("desk_sin")
    with pytest.raises(ConfigError, match="no robot file"):
        load_robot("./nowhere.yaml")


def test_a_bridge_asks_no_server_that_does_not_know_the_robot() -> None:
    with pytest.raises(PolicyDoesNotFit, match="no contract"):
        policy_contract({}, "ws://x")
    with pytest.raises(PolicyDoesNotFit, match="--robot"):
        policy_contract({"contract": "{}"}, "ws://x")


def test_wrong_gate_settings_of_a_robot_file_are_named() -> None:
    with pytest.raises(ConfigError, match=r"gate\.speed_fraction"):
        gate_settings(small_robot(gate={"speed_fraction": 2.0}))
