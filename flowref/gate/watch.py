"""Guards the calls of a target: each has a time limit, and none leaves but by an answer or an exception.

A target that hangs gets CallTimeout. One that swallows that too, or hangs outside Python, is killed by faulthandler,
and the parent sees a worker die. What a target raises that is no Exception (pytest's skip, SystemExit) is taken for
a failure by `flowref.laws.run`; a KeyboardInterrupt of its own is told from the user's here.
"""

from __future__ import annotations

import faulthandler
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flowref.gate.verdict import MOST_TIMEOUTS

# What the gate's own work may take between two calls of the target: reference values and bounds of a large case.
OWN_WORK = 30.0


class CallTimeout(BaseException):
    """A call took longer than --call-timeout. No Exception, so that a target's own handlers don't catch it."""


class TargetInterrupted(Exception):
    """The target raised KeyboardInterrupt though nobody pressed Ctrl-C."""


class Watch:
    """The clock of one process, and whether the user pressed Ctrl-C."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.interrupted, self.timeouts, self._killing = seconds, False, 0, 0.0
        self._before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        if callable(self._before):
            self._before(number, frame)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self.timeouts += 1
        raise CallTimeout(f"took longer than {self.seconds:g} s")

    def _arm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        now = time.monotonic()
        if now > self._killing + 1:  # arming starts a thread and takes milliseconds: once a second is enough
            self._killing = now
            faulthandler.dump_traceback_later(2 * self.seconds + OWN_WORK, exit=True, file=2)

    @property
    def spent(self) -> bool:
        """Whether so many calls timed out that there is no point in another."""
        return self.timeouts >= MOST_TIMEOUTS

    @contextmanager
    def case(self) -> Iterator[None]:
        """Everything that one case needs. Calls of the target in it have their own, shorter limit."""
        before = signal.signal(signal.SIGALRM, self._ring)
        self._arm(self.seconds + OWN_WORK)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def rest(self) -> None:
        """Nothing of the target's runs now: forget when to end the process."""
        faulthandler.cancel_dump_traceback_later()
        self._killing = 0.0

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call of the target."""
        self._arm(self.seconds)
        try:
            yield
        except KeyboardInterrupt as error:
            if self.interrupted:
                raise
            raise TargetInterrupted("KeyboardInterrupt, which nobody pressed") from error
        finally:
            self._arm(self.seconds + OWN_WORK)


class Counted:
    """A target whose passes that returned are counted; all else is the target's own, as it was when it was found."""

    def __init__(self, target: Any) -> None:
        self._target, self.answers = target, 0
        self.name, self.dialect, self.precision = str(target.name), target.dialect, target.precision
        self.not_claimed = frozenset(target.not_claimed)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One pass."""
        answer = self._target.run(*args, **kwargs)
        self.answers += 1
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
