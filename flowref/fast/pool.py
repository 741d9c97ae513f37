"""Threads for kernels that release the GIL: few, made when first asked for, and never torch's or OpenMP's."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

Job = tuple[Callable[[int], object], int, "SimpleQueue[BaseException | None]"]

_lock = Lock()
_jobs: SimpleQueue[Job] = SimpleQueue()
_made = 0


def spread(call: Callable[[int], object], n: int) -> None:
    """call(0) … call(n − 1), the first here and the others in threads; returns, or raises, when all are done.

    Any number of threads may ask at once: a job waits for nothing but its turn.
    """
    if n == 1:
        call(0)
        return
    if _made < n - 1:
        _grow(n - 1)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    failed: BaseException | None = None
    waiting = 0
    try:
        for k in range(1, n):
            _jobs.put((call, k, done))
            waiting += 1
        call(0)
    except BaseException as error:
        failed = error
    # Until the last is done the memory that it writes to must live, whatever interrupts this thread.
    while waiting:
        try:
            failed = done.get() or failed
            waiting -= 1
        except KeyboardInterrupt as error:
            failed = error
    if failed is not None:
        raise failed


def _grow(n: int) -> None:
    global _made
    with _lock:
        for _ in range(_made, n):
            Thread(target=_work, args=(_jobs,), name="flowref-kernels", daemon=True).start()
        _made = max(_made, n)


def _work(jobs: SimpleQueue[Job]) -> None:
    while True:
        call, k, done = jobs.get()
        failed: BaseException | None = None
        try:
            call(k)
        except BaseException as error:
            failed = error
        del call  # who waits finds nothing kept alive here
        done.put(failed)
        del done, failed


def _forget() -> None:
    """In a forked child no thread of the parent's runs, and its lock may have been held."""
    global _lock, _jobs, _made
    _lock, _jobs, _made = Lock(), SimpleQueue(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
