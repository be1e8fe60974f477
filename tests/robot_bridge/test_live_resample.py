"""Live messages on ticks: the values of the array form, nothing kept that is not needed, and the line they wait in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreact.datasets.formats.resample import NS, resample
from foreact.robot_bridge.live_resample import InLine, LiveResampler, Tick

MESSAGES = st.lists(st.tuples(st.integers(0, 2 * NS), st.sampled_from("abk")), max_size=80).map(sorted)


@given(MESSAGES, st.sampled_from([5.0, 30.0, 59.94]), st.floats(0.01, 1.0))
def test_values_are_those_of_the_whole_recording(messages: list[tuple[int, str]], rate: float, age_s: float) -> None:
    messages = [(0, "a"), (0, "b"), *messages]
    live: LiveResampler[int] = LiveResampler("ab", rate, age_s, kept="k")
    ticks: list[Tick[int]] = []
    for number, (time_ns, topic) in enumerate(messages):
        ticks += live.add(topic, time_ns, number)
    ticks += live.finish()
    times = {topic: np.array([t for t, other in messages if other == topic], np.int64) for topic in "abk"}
    whole = resample(times, rate, int(age_s * NS), kept="k")
    assert [tick.time_ns for tick in ticks] == whole.times.tolist()
    assert [tick.good for tick in ticks] == whole.good.tolist()
    for topic in "abk":
        numbers = [number for number, (_, other) in enumerate(messages) if other == topic]
        for tick, index in zip(ticks, whole.index[topic].tolist(), strict=True):
            found = tick.heard.get(topic)
            assert (found is None) == (index < 0)
            if found is not None:
                assert (found.value, found.number, found.time_ns) == (numbers[index], index, times[topic][index])


@pytest.mark.parametrize("both", [True, False])
def test_little_is_held_however_long_it_goes_on(both: bool) -> None:
    """Also while one topic is silent, so that there are no ticks yet."""
    live: LiveResampler[bytes] = LiveResampler("ab", 30.0, 1.0)
    most = 0
    for number in range(5000):
        list(live.add("a", number * 10**6, b""))
        if both and number % 7 == 0:
            list(live.add("b", number * 10**6, b""))
        most = max(most, sum(map(len, live._values.values())))  # pyright: ignore[reportPrivateUsage]
    assert most < 600


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), max_size=60))
def test_the_line_is_in_order_and_loses_nothing(arrivals: list[tuple[int, int]]) -> None:
    """Messages of a time that arrive by so much later; those beyond 100 are late."""
    line: InLine[int] = InLine(100)
    out: list[tuple[int, int]] = []
    given_at = sorted((time_ns + delay, time_ns, number) for number, (time_ns, delay) in enumerate(arrivals))
    for now_ns, time_ns, number in given_at:
        out += line.take(now_ns)
        line.put(time_ns, number)
    out += line.take(None)
    assert sorted(number for _, number in out) == list(range(len(arrivals)))
    assert [time_ns for time_ns, _ in out] == sorted(time_ns for time_ns, _ in out)
    on_time = {number for number, (_, delay) in enumerate(arrivals) if delay < 100}
    assert all(time_ns == arrivals[number][0] for time_ns, number in out if number in on_time)
    assert line.late <= len(arrivals) - len(on_time) and line.latest_by_ns <= 201
