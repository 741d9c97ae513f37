"""Times of jobs, side by side: each takes its turn in each round, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

MOST = 1000  # passes of one contender in one round

Within = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Job:
    """What is timed, and what is done behind it, untimed. within: entered around a contender's turn."""

    run: Callable[[], Any]
    clean: Callable[[], None] = lambda: None
    within: Within = nullcontext


Timer = Callable[[Job, int], list[float]]


def wall(run: Job, n: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each of n passes on the CPU."""
    found = []
    for _ in range(n):
        start = clock()
        run.run()
        found.append(clock() - start)
        run.clean()
    return found


def processor(run: Job, n: int) -> list[float]:
    """CPU seconds of this thread."""
    return wall(run, n, time.thread_time)


def cuda(run: Job, n: int) -> list[float]:
    """Seconds between events around each of n passes; where launches take longer than the work, theirs."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in "01"] for _ in range(n)]
    for start, end in events:
        start.record()
        run.run()
        end.record()
        run.clean()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


@dataclass
class Times:
    """Seconds by contender, round and pass; of the first pass of all; and errors of those that are left out."""

    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Whoever raises is left out, with what was raised."""
        try:
            yield
        except Exception as error:
            text = (str(error) or "no message").strip().splitlines()[0]
            self.failed[name] = f"{type(error).__name__}: {text}"
            self.rounds.pop(name, None)


def interleaved(
    jobs: Mapping[str, Callable[[], Job]],
    rounds: int,
    seconds: float,
    timer: Timer,
    tick: Callable[[], None] = lambda: None,
) -> Times:
    """Build, warm up, then let one after the other run for about so many seconds, in each round."""
    times, ready, counts = Times(), dict[str, Job](), dict[str, int]()
    for name, make in jobs.items():
        with times.guard(name):
            made = make()
            with made.within():
                times.first[name] = timer(made, 1)[0]
                again = timer(made, 1)[0]
            ready[name], times.rounds[name] = made, []
            counts[name] = max(1, min(MOST, int(seconds / max(again, 1e-9))))
    for _ in range(rounds):
        for name in list(times.rounds):
            with times.guard(name), ready[name].within():
                times.rounds[name].append(timer(ready[name], counts[name]))
        tick()
    return times
