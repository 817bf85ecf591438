import pytest

from raygap import pace
from raygap.pace import Pace, Told


def test_steps_are_told_now_and_then_with_the_time_left_at_the_pace_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    told: list[Told] = []
    running = Pace(epochs=5)
    running.tell = told.append
    # Epochs 1 and 2 were taken from elsewhere, in no time.
    running.begin(3, steps=10)
    for _ in range(10):
        now += 0.5
        running.step()
    now += 5  # validation
    running.end()
    running.begin(4, steps=10)
    assert told == [
        Told(3, 0, 10, None),
        Told(3, 4, 10, pytest.approx(2.6 * 2.0 / 0.4)),
        Told(3, 8, 10, pytest.approx(2.2 * 4.0 / 0.8)),
        Told(4, 0, 10, pytest.approx(2 * 10.0)),
    ]
