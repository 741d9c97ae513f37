"""Threads for kernels that release the GIL: torch's own, where they can be asked, else a few that are made here.

torch's operators leave the threads of their OpenMP team spinning for a while, ready for the next operator. Threads of
another pool would have to share the cores with them, so that a kernel between two operators waits for its own thread
to get a turn. Inside that team it does not.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from flowref.fast import cpu

Job = Callable[[], None]

_lock = Lock()
_jobs: SimpleQueue[Job] = SimpleQueue()
_made = 0
_forked = False


def run(kernel: Any, job: cpu.Job) -> None:
    """The kernel on a job in as many threads as it is for, this one among them; returns when all are through."""
    at, threads = ctypes.addressof(job), job.threads
    if threads == 1:
        kernel(at, 0)
    elif (team := None if _forked else _team()) is not None:
        team(kernel, at, threads)
    else:
        spread(lambda me: kernel(at, me), threads)


@cache
def _team() -> Callable[[Any, int, int], None] | None:
    """Calls a kernel on a job, by its address, in so many threads of torch's OpenMP team.

    It does so by `GOMP_parallel`, the entry that GCC calls for a parallel region, which LLVM's and Intel's runtimes
    offer on Linux as well, and a thread asks `omp_get_thread_num` for its number. Both are looked up in torch's own
    library, which finds those of the runtime that torch is linked to. None where torch has no OpenMP or its runtime no
    such entry.
    """
    if not torch.backends.openmp.is_available():
        return None
    try:
        library = ctypes.CDLL(torch._C.__file__)
        parallel, number = library.GOMP_parallel, library.omp_get_thread_num
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    number.argtypes, number.restype = (), ctypes.c_int
    from flowref.fast.cpu import callback as compiled

    callback = cache(lambda kernel: compiled(kernel, number))
    return lambda kernel, at, threads: parallel(callback(kernel), at, threads, 0)


# ---- threads of our own


def spread(call: Callable[[int], object], n: int) -> None:
    """call(0) … call(n − 1), the first here and the others in threads; returns, or raises, when all are done.

    Any number of threads may ask at once: a job waits for nothing but its turn. A signal's handler may raise between
    any two steps here, and even then nothing returns before all are done, as the memory that they write to must live.
    So a step that may have been taken is taken again, and what counts is kept by the other threads.
    """
    if n == 1:
        call(0)
        return
    if _made < n - 1:
        _grow(n - 1)
    left = list(range(1, n))
    ended: list[BaseException | None] = []
    woken: SimpleQueue[None] = SimpleQueue()

    def job() -> None:
        try:
            k = left.pop()
        except IndexError:  # asked for once more than needed
            return
        failed: BaseException | None = None
        try:
            call(k)
        except BaseException as error:
            failed = error
        ended.append(failed)
        woken.put(None)

    asked, called = 0, False
    failed: BaseException | None = None
    while True:
        try:
            while asked < n - 1:
                _jobs.put(job)
                asked += 1
            if not called:
                called = True
                call(0)
            while len(ended) < n - 1:
                woken.get()
            break
        except BaseException as error:
            failed = error
    failed = failed or next((error for error in ended if error is not None), None)
    if failed is not None:
        raise failed


def _grow(n: int) -> None:
    global _made
    with _lock:
        for _ in range(_made, n):
            Thread(target=_work, args=(_jobs,), name="flowref-kernels", daemon=True).start()
            _made += 1


def _work(jobs: SimpleQueue[Job]) -> None:
    while True:
        job = jobs.get()
        job()
        del job  # who waits finds nothing kept alive here


def _forget() -> None:
    """In a forked child no thread of the parent's runs, OpenMP's included, and its lock may have been held."""
    global _lock, _jobs, _made, _forked
    _lock, _jobs, _made, _forked = Lock(), SimpleQueue(), 0, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
