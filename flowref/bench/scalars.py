"""How far torch's scalar functions are from the exact ones: every float32 argument, against what is granted.

    python -m flowref.bench.scalars                       measures what scalars.json lacks, on the CPU, one thread
    python -m flowref.bench.scalars --device cuda         on a GPU
    python -m flowref.bench.scalars --function tanh --again --out FILE

FUNCTIONS   what is measured: torch's function, the exact one in float64, the same in mpmath, what is granted
PATHS       how the arguments lie in memory, which decides torch's code for them
measure     the largest error of one function on one path after another
Exits with 1 where an error is larger than granted. docs/scalars.md has the figures and what they mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mpmath
import torch
from torch import Tensor
from torch.nn import functional

from flowref.bounds import FLOAT32, exact
from flowref.fast.ops import global_scale

ULP = 2 * FLOAT32.u  # 1 ulp, as a share of the exact result (docs/block.md, accuracy)
TINY, MAX = FLOAT32.tiny, torch.finfo(torch.float32).max
HALF = 2.0**-150  # below every float32 but 0: nothing is granted where the exact result is 0
EVERY = range(-(2**31), 2**31)  # all bit patterns, as int32
STEP = 7 * 2**14  # arguments at a time: what they need stays in the cache
ON_GPU = 7 * 2**22
KEPT = Path(__file__).with_name("scalars.json")  # measured so far, and the worst arguments
SAMPLE = 997  # arguments at which the float64 route is held against mpmath, beside the worst
EXACT_TO = 2.0**-20  # ulps; so the digits that are printed are those of torch, not of the route
NO_NUMBER = 1e200  # the error of a result that is NaN or infinite
TOLD = 10.0  # seconds between two lines of progress

CTX = mpmath.mp.clone()
CTX.prec = 400  # log(1 + exp(x)) for x down to -100


@dataclass(frozen=True)
class Scalar:
    """One function: as torch computes it, exactly (x and result float64; x a scalar of mpmath), and what is granted.

    granted(x, v): the largest error at the argument x with the exact result v. ``least``: the domain is x > least.
    """

    name: str
    compute: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    digits: Callable[[Any], Any]
    granted: Callable[[Tensor, Tensor], Tensor]
    least: float = -torch.inf


def _ulps(n: Callable[[Tensor], Any] | float) -> Callable[[Tensor, Tensor], Tensor]:
    """n ulps of v."""
    return lambda x, v: (n(x) if callable(n) else n) * ULP * abs(v)


def _bounded(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The error of Ψ by the rules of `flowref.bounds`, on the very line that computes it."""

    def granted(s: Tensor, v: Tensor) -> Tensor:
        sigma: Any = global_scale(kind, exact(s, FLOAT32))  # type: ignore[arg-type]  # Bounded stands for a tensor
        return sigma.error

    return granted


def _tanh(x: Tensor) -> Tensor:
    e = torch.expm1(-2 * abs(x))
    return torch.copysign(-e / (2 + e), x)


def _sigmoid(x: Tensor) -> Tensor:
    e = torch.exp(-abs(x))
    return torch.where(x < 0, e, 1.0) / (1 + e)


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-abs(x)))


def _mp_sigmoid(x: Any) -> Any:
    return 1 / (1 + CTX.exp(-x))


def _mp_softplus(x: Any) -> Any:
    return CTX.log(1 + CTX.exp(x))


FUNCTIONS = {
    one.name: one
    for one in (
        Scalar("tanh", torch.tanh, _tanh, CTX.tanh, _ulps(4)),
        Scalar("exp", torch.exp, torch.exp, CTX.exp, _ulps(lambda x: 2 + abs(x))),
        Scalar("log", torch.log, torch.log, CTX.log, _ulps(2), least=0.0),
        Scalar("sigmoid", torch.sigmoid, _sigmoid, _mp_sigmoid, _ulps(4)),
        Scalar("softplus", functional.softplus, _softplus, _mp_softplus, _ulps(4)),
        Scalar(
            "Ψ SIGMOID",
            lambda s: global_scale("SIGMOID", s),
            lambda s: 10 * _sigmoid(s - 2),
            lambda s: 10 * _mp_sigmoid(s - 2),
            _bounded("SIGMOID"),
        ),
        Scalar(
            "Ψ SOFTPLUS",
            lambda s: global_scale("SOFTPLUS", s),
            lambda s: _softplus(s / 2) / 5,
            lambda s: _mp_softplus(s / 2) / 5,
            _bounded("SOFTPLUS"),
        ),
        Scalar("Ψ EXP", lambda s: global_scale("EXP", s), torch.exp, CTX.exp, _ulps(lambda x: 2 + abs(x))),
    )
}


def _vectors(x: Tensor) -> Tensor:
    return x


def _tails(x: Tensor) -> Tensor:
    """Rows of 7 with a gap behind each: shorter than any vector, so that only the code for what is left runs."""
    rows = -(-len(x) // 7)
    wide = x.new_full((rows, 16), torch.nan)
    wide[:, :7] = functional.pad(x, (0, 7 * rows - len(x)), value=1.0).reshape(rows, 7)
    return wide[:, :7]


def _strided(x: Tensor) -> Tensor:
    wide = x.new_full((len(x), 2), torch.nan)
    wide[:, 0] = x
    return wide[:, 0]


PATHS: dict[str, Callable[[Tensor], Tensor]] = {"vectors": _vectors, "tails": _tails, "strided": _strided}


@dataclass
class Worst:
    """The largest errors on one path: in ulps (results from 2⁴·tiny on), and as a share of what is granted."""

    ulps: float = 0.0
    at: float = 0.0
    share: float = 0.0
    share_at: float = 0.0
    unrounded: int = 0

    def add(self, other: Worst) -> None:
        """Take in what was found elsewhere."""
        self.unrounded += other.unrounded
        if other.ulps > self.ulps:
            self.ulps, self.at = other.ulps, other.at
        if other.share > self.share:
            self.share, self.share_at = other.share, other.share_at


def arguments(device: str, patterns: range, step: int) -> Iterator[Tensor]:
    """The float32 numbers of these bit patterns, some at a time."""
    for start in range(patterns.start, patterns.stop, step * patterns.step):
        stop = min(start + step * patterns.step, patterns.stop)
        bits = torch.arange(start, stop, patterns.step, dtype=torch.int64, device=device)
        yield bits.to(torch.int32).view(torch.float32)


def compare(scalar: Scalar, x: Tensor, worst: dict[str, Worst]) -> int:
    """Hold torch's results at x (n,) float32 against the exact ones; how many arguments lie in the domain.

    The domain: x and the exact result are finite in float32, and x > least. A result below tiny may be
    0, or off by tiny.
    """
    v = scalar.exact(x.double())
    # A look at the ends is cheaper than a mask, and mostly enough; a NaN fails it.
    if not (abs(x).amax() <= MAX and x.amin() > scalar.least and abs(v).amax() <= MAX):
        inside = x.isfinite() & (x > scalar.least) & (abs(v) <= MAX)
        x, v = x[inside], v[inside]
    if not len(x):
        return 0
    size = abs(v)
    below = (size < TINY) & (v != 0) if size.amin() < TINY else None
    granted = scalar.granted(x.double(), v).clamp(min=HALF)
    per_granted = 1 / (granted if below is None else torch.where(below, TINY, granted))
    per_ulp = 1 / (ULP * size) if size.amin() >= 2**4 * TINY else torch.where(size >= 2**4 * TINY, 1 / (ULP * size), 0)
    rounded, seen = v.float(), list[tuple[Tensor, Worst]]()
    for name, path in PATHS.items():
        got = scalar.compute(path(x)).reshape(-1)[: len(x)]
        found = next((one for other, one in seen if torch.equal(got, other)), None)
        if found is None:
            error = abs(got.double() - v).nan_to_num(nan=NO_NUMBER, posinf=NO_NUMBER)
            if below is not None:
                error = torch.where((got == 0) & below, 0.0, error)
            found = _furthest(x, error * per_ulp, error * per_granted, int((got != rounded).sum()))
            seen.append((got, found))
        worst[name].add(found)
    return len(x)


def _furthest(x: Tensor, ulps: Tensor, share: Tensor, unrounded: int) -> Worst:
    (most, at), (share_most, share_at) = ((float(y.amax()), float(x[y.argmax()])) for y in (ulps, share))
    return Worst(most, at, share_most, share_at, unrounded)


def off(scalar: Scalar, x: Sequence[float], device: str = "cpu") -> float:
    """The float64 route's largest error against mpmath at x, in ulps of float32. Results below tiny don't count."""
    got = scalar.exact(torch.tensor(x, dtype=torch.float64, device=device)).tolist()
    want = [scalar.digits(CTX.mpf(v)) for v in x]
    errors = [float(abs(g - w) / abs(w)) / ULP for g, w in zip(got, want, strict=True) if abs(w) >= TINY]
    return max(errors, default=0.0)


def measure(
    scalar: Scalar, device: str = "cpu", patterns: range = EVERY, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """The figures of one function as plain values. Raises ArithmeticError where the float64 route is not exact enough.

    Per path: ulps and at, share (of what is granted) and share_at, unrounded (results that are not correctly rounded).
    """
    worst, count, begin, told = {name: Worst() for name in PATHS}, 0, time.monotonic(), time.monotonic()
    step = STEP if device == "cpu" else ON_GPU
    for k, x in enumerate(arguments(device, patterns, step)):
        count += compare(scalar, x, worst)
        if time.monotonic() - told > TOLD:
            told = time.monotonic()
            done = min(1.0, (k + 1) * step / len(patterns))
            left = (told - begin) * (1 / done - 1)
            tell(f"{scalar.name}: {done:.0%} of all arguments after {told - begin:.0f} s, about {left:.0f} s left")
    _hold_route(scalar, device, [one.at for one in worst.values()], patterns)
    paths = {
        name: {
            "ulps": round(one.ulps, 6),
            "at": one.at.hex(),
            "share": round(one.share, 6),
            "share_at": one.share_at.hex(),
            "unrounded": one.unrounded,
        }
        for name, one in worst.items()
    }
    return {"arguments": count, "paths": paths, "seconds": round(time.monotonic() - begin)}


def _hold_route(scalar: Scalar, device: str, at: list[float], patterns: range) -> None:
    """At the worst arguments and at a sample."""
    (some,) = arguments("cpu", patterns[:: max(1, len(patterns) // SAMPLE)], len(patterns))
    some = some[some.isfinite() & (some > scalar.least)].double()
    some = some[abs(scalar.exact(some)) <= MAX]
    found = off(scalar, [x for x in at if x > scalar.least] + some.tolist(), device)
    if not found <= EXACT_TO:
        raise ArithmeticError(
            f"{scalar.name} in float64 is {found:.3g} ulps of float32 off, need {EXACT_TO:.3g}: its figures would be "
            "those of the route. Use another torch, or mend the route."
        )


# What was measured, kept in a file: {"measured": [{"torch", "device", "capability", "date", "functions": {…}}]}


def here(device: str) -> dict[str, str]:
    """What the figures depend on."""
    capability = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    return {"torch": torch.__version__, "machine": platform.machine(), "device": device, "capability": capability}


def kept(path: Path) -> list[dict[str, Any]]:
    """What the file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8"))["measured"] if path.exists() else []


def keep(path: Path, measured: list[dict[str, Any]]) -> None:
    """Write the file, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps({"measured": measured}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def worst_arguments(name: str) -> list[float]:
    """Where this function was furthest off, on any machine measured so far."""
    found = [one["functions"][name]["paths"] for one in kept(KEPT) if name in one["functions"]]
    places = [path[place] for paths in found for path in paths.values() for place in ("at", "share_at")]
    return sorted({float.fromhex(place) for place in places})


def table(one: dict[str, Any]) -> str:
    """The figures of one machine as a Markdown table."""
    lines = ["| function | path | largest error, ulps | at | of what is granted | at | not correctly rounded |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for name, figures in one["functions"].items():
        for path, w in figures["paths"].items():
            at, share_at = (f"{float.fromhex(w[place]):.9g}" for place in ("at", "share_at"))
            rate = w["unrounded"] / figures["arguments"]
            lines.append(f"| {name} | {path} | {w['ulps']:.3f} | {at} | {w['share']:.3f} | {share_at} | {rate:.3%} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None, patterns: range = EVERY) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flowref.bench.scalars", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--function", choices=tuple(FUNCTIONS), action="append", help="this one only; repeatable")
    parser.add_argument("--again", action="store_true", help="measure what the file has already, too")
    parser.add_argument("--out", type=Path, default=Path("scalars.json"), help="the file of figures, added to")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no CUDA device. Use cpu.")
    torch.set_num_threads(1)
    tell = lambda text: print(text, flush=True)  # noqa: E731
    place, measured = here(given.device), kept(given.out)
    mine = next((one for one in measured if all(one[key] == value for key, value in place.items())), None)
    if mine is None:
        mine = {**place, "date": "", "functions": {}}
        measured.append(mine)
    tell(f"torch {place['torch']}, {place['device']}, {place['capability']}; figures are kept in {given.out}")
    for name in given.function or FUNCTIONS:
        if name in mine["functions"] and not given.again:
            tell(f"{name}: measured already, on {mine['date']}; --again measures anew")
            continue
        mine["functions"][name] = measure(FUNCTIONS[name], given.device, patterns, tell)
        mine["date"] = date.today().isoformat()
        mine["functions"] = {n: mine["functions"][n] for n in FUNCTIONS if n in mine["functions"]}
        keep(given.out, measured)
        tell(f"{name}: {mine['functions'][name]['seconds']} s")
    tell("\n" + table(mine))
    beyond = [
        f"{name}, {path}: {w['share']:.3g} times what is granted, at {float.fromhex(w['share_at'])!r}"
        for name, figures in mine["functions"].items()
        for path, w in figures["paths"].items()
        if not w["share"] <= 1
    ]
    for line in beyond:
        tell(f"MORE THAN GRANTED: {line}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
