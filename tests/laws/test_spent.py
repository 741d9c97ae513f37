"""Where the time of an item goes: parts are exclusive, but for those that are whole."""

from time import sleep

import pytest

from flowref.laws import spent
from flowref.laws.spent import Spent, part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Spent:
    one = Spent()
    monkeypatch.setattr(spent, "SPENT", one)
    return one


def test_an_inner_part_stops_the_outer_ones_clock(clock: Spent) -> None:
    with part("law"), part("target"):
        sleep(0.02)
    found = clock.read()

    assert found["target"] >= 0.02
    assert found.get("law", 0.0) < 0.02
    assert clock.read().get("target") is None  # read once


def test_a_whole_part_counts_all_that_runs_inside(clock: Spent) -> None:
    @part("target")
    def asked() -> None:
        sleep(0.02)

    with part("shrinking"):
        asked()
        with pytest.raises(ValueError, match="raised"), part("reference"):
            raise ValueError("raised")
        sleep(0.01)
    found = clock.read()

    assert found["shrinking"] >= 0.03
    assert "target" not in found
