"""Time of a pass, side by side in one process: rounds interleaved, medians, ratios to the first contender.

Behind the ratio of medians stands that of fastest tenths, nearest to a quiet machine.

    python benchmarks/side_by_side.py [--kinds hard,gin] [--passes forward] [--shapes 64x4096] [--rounds 15]

The subnet copies its input channels, so that what is timed is the block. Forward and inverse run under no_grad;
backward starts from given gradients of output and log-det. A contender that raises is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SHAPES = {  # (B, C, *S)
    "64x4096": (4096, 64),
    "512x256": (256, 512),
    "48x32x32": (32, 48, 32, 32),
    "256x32x32": (8, 256, 32, 32),
    "64x64x64": (8, 64, 64, 64),
    "768x16x16": (8, 768, 16, 16),
}
KINDS: dict[str, dict[str, Any]] = {
    "hard": {},
    "gin": {"gin_block": True},
    "reflections": {"learned_householder_permutation": 8},
    "soft": {"permute_soft": True},
}
PASSES = ("forward", "inverse", "backward")


class Copy(nn.Module):
    """The trivial subnet: its input channels, twice. It costs a copy, and keeps nothing for backward."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        assert m == 2 * n, (n, m)

    def forward(self, v: Tensor) -> Tensor:
        return torch.cat((v, v), 1)


def contenders() -> dict[str, Callable[..., nn.Module]]:
    """By name, how each is built; the first is what the others are compared with."""
    from flowref.fast import AllInOneBlock
    from flowref.targets import anomalib

    class Eager(AllInOneBlock):
        """Without kernels."""

        def forward(self, *given: Any, **named: Any) -> Any:
            os.environ["FLOWREF_FAST"] = "eager"
            try:
                return super().forward(*given, **named)
            finally:
                del os.environ["FLOWREF_FAST"]

    return {"anomalib": anomalib.AllInOneBlock, "eager": Eager, "fast": AllInOneBlock}


def call(block: nn.Module, x: Tensor, what: str, g: Tensor, j: Tensor) -> Callable[[], None]:
    if what == "backward":

        def both() -> None:
            (y,), logdet = block([x])
            torch.autograd.backward([y, logdet], [g, j])
            x.grad = None
            for p in block.parameters():
                p.grad = None

        return both

    def once() -> None:
        with torch.no_grad():
            block([x], rev=what == "inverse")

    return once


def measure(
    kind: str, shape: tuple[int, ...], what: str, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each pass, by contender."""
    B, *dims = shape
    torch.manual_seed(0)
    x, g, j = torch.randn(shape), torch.randn(shape), torch.randn(B)
    x.requires_grad_(what == "backward")
    runs, times = {}, {}
    for name, make in contenders().items():
        run = call(make([tuple(dims)], subnet_constructor=Copy, **KINDS[kind]), x, what, g, j)
        run()
        start = time.perf_counter()
        run()
        runs[name] = run, max(1, int(seconds / (time.perf_counter() - start)))
        times[name] = []
    for _ in range(rounds):
        for name, (run, n) in runs.items():
            for _ in range(n):
                start = clock()
                run()
                times[name].append(clock() - start)
    return times


def copies(shape: tuple[int, ...], rounds: int) -> float:
    """Seconds that it takes to read x and the answer and write an output once."""
    x, a, y = torch.randn(shape), torch.randn(shape), torch.empty(shape)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        torch.add(x, a, out=y)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _both(value: Callable[[Callable[[list[float]], float]], float]) -> str:
    """A figure of the medians, and of the fastest tenths."""
    return f"{value(statistics.median):10.3f} ·{value(tenth):6.3f}"


def tenth(times: list[float]) -> float:
    """The time that one pass in ten stays below."""
    return sorted(times)[len(times) // 10]


def geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(math.log(v) for v in values))


def show(title: str, found: list[dict[str, list[float]]]) -> None:
    """A table's part: milliseconds of the first contender by shape, ratios of the others."""
    first, *others = found[0]
    print(f"{title:24}" + "".join(_both(lambda q, one=one: 1e3 * q(one[first])) for one in found))
    for name in others:
        line = [_both(lambda q, one=one, name=name: q(one[name]) / q(one[first])) for one in found]
        line.append(_both(lambda q, name=name: geometric([q(one[name]) / q(one[first]) for one in found])))
        print(f"  {name:22}" + "".join(line), flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kinds", default=",".join(KINDS))
    ask.add_argument("--passes", default=",".join(PASSES))
    ask.add_argument("--shapes", default=",".join(SHAPES))
    ask.add_argument("--rounds", type=int, default=15)
    ask.add_argument("--seconds", type=float, default=0.02, help="of one contender in one round, about")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--cpu", action="store_true", help="CPU time of one thread, which other work touches least")
    ask.add_argument("--json", help="also write all times there")
    given = ask.parse_args()
    threads, clock = (1, time.thread_time) if given.cpu else (given.threads, time.perf_counter)
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads, {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    shapes = given.shapes.split(",")
    print(f"{'':24}" + "".join(f"{name:>18}" for name in shapes) + f"{'geometric mean':>18}")
    kept: dict[str, Any] = {}
    for kind in given.kinds.split(","):
        for what in given.passes.split(","):
            found = {name: measure(kind, SHAPES[name], what, given.rounds, given.seconds, clock) for name in shapes}
            kept[f"{kind} {what}"] = found
            show(f"{kind} {what}", list(found.values()))
    print(f"{'x + a, once':24}" + "".join(f"{1e3 * copies(SHAPES[s], given.rounds):15.2f} ms" for s in shapes))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(kept, file)


if __name__ == "__main__":
    main()
