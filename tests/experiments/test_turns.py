"""Calls that take turns."""

import time

from experiments import turns


def test_calls_take_turns_and_are_repeated_as_often_as_the_time_allows(monkeypatch):
    now, heard = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call(name, seconds):
        def run():
            heard.append(name)
            now[0] += seconds
            return ()

        return run

    slow, fast = turns.timed([call("slow", 1.0), call("fast", 0.25)], rounds=2, seconds=0.5)
    assert (slow, fast) == ([1.0, 1.0], [0.25, 0.25])
    assert heard == ["slow"] * 2 + ["fast"] * 2 + (["slow"] + ["fast"] * 2) * 2
