"""The block in exact arithmetic, or as near to it as is asked: scalars of mpmath, loops, any number of digits.

The second writing of docs/block.md, sharing nothing with the reference but the specification's arguments.

    Exact      one block: its spec, state and subnet, at so many decimal digits
    Pass       what a pass computed, one sample after another
    flat       the numbers of nested lists, in row-major order
    nearest    the float64 nearest to a number, ties to even, subnormals too

Every number that comes in (array, tensor, float, mpf) is taken at its exact value; what is divided by 10 is divided.
Values: x is [sample][channel][pixel], pixels in row-major order. The context is this module's own: mpmath's global
one, ``mpmath.mp``, is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mpmath

from flowref.spec import BlockSpec, Dialect

Rows = list[list[Any]]  # channels × pixels of one sample, or a matrix
Subnet = Callable[[Any, Mapping[str, Any], Rows], Rows]
LEAST_DIGITS = 20  # more than a float64 has, so that each comes in as it is


@dataclass
class Pass:
    """One pass. Letters as in docs/block.md; each names the same quantity in both directions: x, z, u, v, y in turn.

    out, logdet: the answer, y or x; per sample seen (the subnet's input), a (its answer), l (after the clamp and GIN's
    centring), t, z (before the coupling), u (behind it), v (what W is applied to); sigma (C), W, W_inv (C, C).
    """

    sigma: list[Any]
    W: Rows
    W_inv: Rows
    out: list[Rows] = field(default_factory=list)
    logdet: list[Any] = field(default_factory=list)
    seen: list[Rows] = field(default_factory=list)
    a: list[Rows] = field(default_factory=list)
    l: list[Rows] = field(default_factory=list)  # noqa: E741
    t: list[Rows] = field(default_factory=list)
    z: list[Rows] = field(default_factory=list)
    u: list[Rows] = field(default_factory=list)
    v: list[Rows] = field(default_factory=list)


class Exact:
    """An AllInOneBlock at ``digits`` decimal digits.

    state: the names and shapes of docs/block.md, section 5, the subnet's parameters as ``subnet.*``; a permutation
    may be an index vector. subnet(ctx, parameters, rows) answers one sample: ``parameters`` by their names, as nested
    lists; rows, and what it returns, channels × pixels. Its numbers know + − · / and the context's ``mpf`` (a
    constant), ``exp``, ``log``, ``log1p``, ``tanh``.
    true_inverse: W⁻¹ is the inverse of the stored matrix; else, as the specification says, what the state holds
    (w_perm_inv) or the transpose.
    Raises ValueError for digits below 20, and for arrays that do not have the shape that the spec asks for.
    """

    def __init__(
        self, spec: BlockSpec, state: Mapping[str, Any], subnet: Subnet, digits: int, *, true_inverse: bool = False
    ) -> None:
        if digits < LEAST_DIGITS:
            raise ValueError(f"digits={digits} is too few: need {LEAST_DIGITS} or more, as a float64 has up to 17.")
        self.spec, self.subnet, self.true_inverse = spec, subnet, true_inverse
        self.ctx = _context(digits)
        self.state = {name: _mapped(self.ctx.mpf, value) for name, value in state.items()}

    def forward(self, x: Any, c: Sequence[Any] = ()) -> Pass:
        """y and log-det of x (B, C, *S) under the conditions c, each (B, C_k, *S)."""
        return self._pass(self.ctx, self.state, *self._inputs(x, c), False)

    def reverse(self, y: Any, c: Sequence[Any] = ()) -> Pass:
        """x and log-det of y."""
        return self._pass(self.ctx, self.state, *self._inputs(y, c), True)

    def gradient(self, x: Any, c: Sequence[Any], gy: Any, gj: Any, *, rev: bool = False) -> dict[str, Any]:
        """Gradient of ``Σ gy·out + Σ gj·logdet``: by ``x``, ``c0`` …, and each trained name of the state.

        gy: like out; gj: (B,). Derivatives are exact; they are collected backwards along the tape of one pass.
        """
        tape, (x, c) = Tape(self.ctx), self._inputs(x, c)
        gy, gj = _rows("gy", self.ctx, gy, len(x), self.spec.dims), _mapped(self.ctx.mpf, gj)
        fixed = {name: value for name, value in self.state.items() if name in ("w_perm", "w_perm_inv", "w_0")}
        leaves = {name: _mapped(tape.leaf, value) for name, value in self.state.items() if name not in fixed}
        inputs = {"x": _mapped(tape.leaf, x), **{f"c{k}": _mapped(tape.leaf, one) for k, one in enumerate(c)}}
        x, *c = inputs.values()
        one = self._pass(tape, fixed | leaves, x, c, rev)
        found = tape.backward(zip([*flat(one.out), *one.logdet], [*flat(gy), *flat(gj)], strict=True))
        return {name: _mapped(lambda leaf: found[leaf.at], value) for name, value in (inputs | leaves).items()}

    def jacobian(self, x: Any, c: Sequence[Any] = (), *, rev: bool = False) -> list[Rows]:
        """For each sample the matrix ∂out/∂x, channels and pixels in row-major order, differentiated forwards."""
        matrices = []
        x, c = self._inputs(x, c)
        for b, sample in enumerate(x):
            tape = Tape(self.ctx)
            leaves = _mapped(tape.leaf, [sample])
            out = self._pass(tape, self.state, leaves, [one[b : b + 1] for one in c], rev).out
            by = [tape.forward(leaf) for leaf in flat(leaves)]
            matrices.append([[tangents.get(tape.at(y), self.ctx.zero) for tangents in by] for y in flat(out)])
        return matrices

    def log_abs_det(self, x: Any, c: Sequence[Any] = (), *, rev: bool = False) -> list[Any]:
        """For each sample log|det J| of its Jacobian: the log-det, and W's own share (docs/block.md, section 2)."""
        return [self.ctx.log(abs(self.ctx.det(self.ctx.matrix(J)))) for J in self.jacobian(x, c, rev=rev)]

    # The formulas. ``num`` is the context of the numbers: mpmath's, or a tape.

    def _inputs(self, x: Any, c: Sequence[Any]) -> tuple[list[Rows], list[list[Rows]]]:
        x = _rows("x", self.ctx, x, None, self.spec.dims)
        if len(c) != len(self.spec.dims_c):
            raise ValueError(f"c holds {len(c)} conditions: need {len(self.spec.dims_c)}, one for each of dims_c.")
        pairs = enumerate(zip(c, self.spec.dims_c, strict=True))
        return x, [_rows(f"c[{k}]", self.ctx, one, len(x), dims) for k, (one, dims) in pairs]

    def _pass(self, num: Any, state: Mapping[str, Any], x: list[Rows], c: list[list[Rows]], rev: bool) -> Pass:
        spec = self.spec
        s, o = flat(state["global_scale"]), flat(state["global_offset"])
        sigma = [num.mpf(1)] * spec.C if spec.gin_block else [self._psi(num, v) for v in s]
        W, W_inv = self._mixing(num, state)
        log_sigma = sum((num.log(v) for v in sigma), num.mpf(0))
        parameters = {name.removeprefix("subnet."): v for name, v in state.items() if name.startswith("subnet.")}
        one = Pass(sigma, W, W_inv)
        documented = spec.dialect is Dialect.DOCUMENTED
        for b, sample in enumerate(x):
            if rev:
                if documented:  # y = W v + o with v = σ u
                    v = _applied(num, W_inv, [[y - o[i] for y in row] for i, row in enumerate(sample)])
                    u = [[w / sigma[i] for w in row] for i, row in enumerate(v)]
                else:  # y = W v with v = σ u + o
                    v = _applied(num, W_inv, sample)
                    u = [[(w - o[i]) / sigma[i] for w in row] for i, row in enumerate(v)]
                z = [list(row) for row in u]
            else:
                z = _applied(num, W_inv, sample) if spec.reverse_permutation else sample
                u = [list(row) for row in z]

            passive = range(spec.A, spec.C) if documented else range(spec.P)
            active = range(spec.A) if documented else range(spec.P, spec.C)
            seen = [z[i] for i in passive] + [row for condition in c for row in condition[b]]
            a = self.subnet(num, parameters, seen)
            if [len(row) for row in a] != [spec.N] * spec.subnet_out:
                raise ValueError(f"the subnet answered with rows of {[len(row) for row in a]} numbers: need "
                                 f"{spec.subnet_out} rows (2A) of {spec.N} pixels.")  # fmt: skip
            l, t = self._log_scale(num, a[: spec.A]), [[self._tenth(v) for v in row] for row in a[spec.A :]]  # noqa: E741
            for j, i in enumerate(active):
                for n in range(spec.N):
                    if rev:
                        z[i][n] = (u[i][n] - t[j][n]) * num.exp(-l[j][n])
                    else:
                        u[i][n] = z[i][n] * num.exp(l[j][n]) + t[j][n]

            logdet = sum(flat(l), num.mpf(0)) + spec.N * log_sigma
            if rev:
                out, logdet = _applied(num, W, z) if spec.reverse_permutation else z, -logdet
            else:
                v = [[w * sigma[i] for w in row] for i, row in enumerate(u)]
                if not documented:
                    v = [[w + o[i] for w in row] for i, row in enumerate(v)]
                out = _applied(num, W, v)
                if documented:
                    out = [[w + o[i] for w in row] for i, row in enumerate(out)]
            for name, value in {"out": out, "logdet": logdet, "seen": seen, "a": a, "l": l, "t": t, "z": z, "u": u,
                                "v": v}.items():  # fmt: skip
                getattr(one, name).append(value)
        return one

    def _tenth(self, a: Any) -> Any:
        """k and t are a tenth of the subnet's answer, or the answer itself."""
        return a if self.spec.dialect is Dialect.DOCUMENTED else a / 10

    def _log_scale(self, num: Any, a: Rows) -> Rows:
        """l = α tanh(k), in freia-main α tanh(k/α); under GIN less its mean over the sample."""
        alpha = num.mpf(self.spec.affine_clamping)
        inner = alpha if self.spec.dialect is Dialect.FREIA_MAIN else 1
        l = [[alpha * num.tanh(self._tenth(v) / inner) for v in row] for row in a]  # noqa: E741
        if self.spec.gin_block and l:
            mean = sum(flat(l), num.mpf(0)) / (self.spec.A * self.spec.N)
            l = [[v - mean for v in row] for row in l]  # noqa: E741
        return l

    def _psi(self, num: Any, s: Any) -> Any:
        """σ = Ψ(s), in forms that keep their digits at both ends."""
        if self.spec.global_affine_type == "SIGMOID":
            return 10 / (1 + num.exp(2 - s))
        if self.spec.global_affine_type == "SOFTPLUS":
            return num.log1p(num.exp(s / 2)) / 5
        return num.exp(s)

    def _mixing(self, num: Any, state: Mapping[str, Any]) -> tuple[Rows, Rows]:
        """W and W⁻¹: the stored matrix, with R = H₁ H₂ … H_n behind it, in the dialect documented before it."""
        C, reflected = self.spec.C, "vk_householder" in state
        W_0 = self._matrix(state["w_0" if reflected else "w_perm"])
        if self.true_inverse:
            W_0_inv = (self.ctx.matrix(W_0) ** -1).tolist()
        else:
            W_0_inv = _transposed(W_0) if reflected else self._matrix(state["w_perm_inv"])
        if not reflected:
            return W_0, W_0_inv
        R = [[num.mpf(i == j) for j in range(C)] for i in range(C)]
        for v in state["vk_householder"]:
            vv = num.fdot(v, v)
            R = _applied(num, R, [[(i == j) - 2 * v[i] * v[j] / vv for j in range(C)] for i in range(C)])
        if self.spec.dialect is Dialect.DOCUMENTED:
            return _applied(num, R, W_0), _applied(num, W_0_inv, _transposed(R))
        return _applied(num, W_0, R), _applied(num, _transposed(R), W_0_inv)

    def _matrix(self, stored: list[Any]) -> Rows:
        """(C, C) from (C, C, 1…), or from an index vector: row i picks channel index[i]."""
        C = self.spec.C
        if stored and not isinstance(stored[0], list):
            return [[self.ctx.mpf(j == index) for j in range(C)] for index in stored]
        return [flat(row) for row in stored]


# Differentiation: numbers that remember from which others they were made, and by which derivatives.


class Tape:
    """A context whose numbers write down, one after another, what they depend on; `mpf` gives constants."""

    def __init__(self, ctx: Any) -> None:
        self.ctx, self.mpf = ctx, ctx.mpf
        self.by: list[tuple[tuple[int, Any], ...]] = []  # for each number: (place of an operand, derivative by it)

    def leaf(self, value: Any) -> Number:
        """A number that depends on nothing."""
        return self.put(value, ())

    def put(self, value: Any, by: tuple[tuple[int, Any], ...]) -> Number:
        self.by.append(by)
        return Number(self, value, len(self.by) - 1)

    def at(self, x: Any) -> int:
        """The place of a number on the tape; −1 for a constant."""
        return x.at if isinstance(x, Number) else -1

    def backward(self, seeds: Any) -> list[Any]:
        """By each number on the tape, the derivative of Σ seed·number over the given pairs (number, seed)."""
        found = [self.ctx.zero] * len(self.by)
        for x, seed in seeds:
            if isinstance(x, Number):
                found[x.at] += seed
        for at in range(len(self.by) - 1, -1, -1):
            if g := found[at]:
                for operand, derivative in self.by[at]:
                    found[operand] += g * derivative
        return found

    def forward(self, leaf: Number) -> dict[int, Any]:
        """The derivative by one leaf of each number on the tape that depends on it, by place."""
        found = {leaf.at: self.ctx.one}
        for at in range(leaf.at + 1, len(self.by)):
            terms = [found[operand] * derivative for operand, derivative in self.by[at] if operand in found]
            if terms:
                found[at] = sum(terms)
        return found

    def _function(self, x: Any, f: Callable[[Any], Any], slope: Callable[[Any, Any], Any]) -> Any:
        if not isinstance(x, Number):
            return f(x)
        value = f(x.value)
        return self.put(value, ((x.at, slope(x.value, value)),))

    def exp(self, x: Any) -> Any:
        return self._function(x, self.ctx.exp, lambda x, y: y)

    def log(self, x: Any) -> Any:
        return self._function(x, self.ctx.log, lambda x, y: 1 / x)

    def log1p(self, x: Any) -> Any:
        return self._function(x, self.ctx.log1p, lambda x, y: 1 / (1 + x))

    def tanh(self, x: Any) -> Any:
        # 1/cosh² and not 1 − tanh², which loses its digits where tanh is near 1
        return self._function(x, self.ctx.tanh, lambda x, y: self.ctx.sech(x) ** 2)

    def fdot(self, a: Sequence[Any], b: Sequence[Any]) -> Any:
        """Σ a·b, as one number of the tape."""
        by = [
            (one.at, _value(other))
            for pair in zip(a, b, strict=True)
            for one, other in (pair, pair[::-1])
            if isinstance(one, Number)
        ]
        value = self.ctx.fdot([_value(x) for x in a], [_value(x) for x in b])
        return self.put(value, tuple(by)) if by else value


class Number:
    """A value, and its place on a tape."""

    __slots__ = ("at", "tape", "value")

    def __init__(self, tape: Tape, value: Any, at: int) -> None:
        self.tape, self.value, self.at = tape, value, at

    def _with(self, other: Any, value: Any, mine: Any, its: Any) -> Number:
        both = ((self.at, mine), (other.at, its)) if isinstance(other, Number) else ((self.at, mine),)
        return self.tape.put(value, both)

    def __add__(self, other: Any) -> Number:
        return self._with(other, self.value + _value(other), 1, 1)

    __radd__ = __add__

    def __neg__(self) -> Number:
        return self.tape.put(-self.value, ((self.at, -1),))

    def __sub__(self, other: Any) -> Number:
        return self._with(other, self.value - _value(other), 1, -1)

    def __rsub__(self, other: Any) -> Number:
        return -self + other

    def __mul__(self, other: Any) -> Number:
        factor = _value(other)
        return self._with(other, self.value * factor, factor, self.value)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Number:
        divisor = _value(other)
        value = self.value / divisor
        return self._with(other, value, self.tape.ctx.one / divisor, -value / divisor)

    def __rtruediv__(self, other: Any) -> Number:
        value = other / self.value
        return self.tape.put(value, ((self.at, -value / self.value),))


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Number) else x


# Lists of numbers.


def flat(nested: Any) -> list[Any]:
    """The numbers of nested lists, in row-major order."""
    return list(_leaves(nested))


def _leaves(nested: Any) -> Iterator[Any]:
    if isinstance(nested, list):
        for one in nested:
            yield from _leaves(one)
    else:
        yield nested


def nearest(value: Any) -> float:
    """The float64 nearest to a finite mpf, ties to even. Raises OverflowError where that is past its range."""
    sign, mantissa, exponent, _ = value._mpf_
    whole = -int(mantissa) if sign else int(mantissa)
    return float(whole << exponent) if exponent >= 0 else whole / (1 << -exponent)  # rounded once, subnormals too


def _mapped(f: Callable[[Any], Any], nested: Any) -> Any:
    """f of each number; arrays and tensors become nested lists."""
    if hasattr(nested, "tolist"):
        nested = nested.tolist()
    return [_mapped(f, one) for one in nested] if isinstance(nested, (list, tuple)) else f(nested)


def _rows(name: str, ctx: Any, value: Any, B: int | None, dims: tuple[int, ...]) -> list[Rows]:
    """An array (B, C, *S) as samples × channels × pixels."""
    samples = [[flat(row) for row in sample] for sample in _mapped(ctx.mpf, value)]
    C, N = dims[0], _product(dims[1:])
    for sample in samples:
        if [len(row) for row in sample] != [N] * C:
            raise ValueError(
                f"{name} has rows of {[len(row) for row in sample]} numbers: need the shape (B, {C}) and then "
                f"{dims[1:]}, {N} pixels in each of {C} channels."
            )
    if B is not None and len(samples) != B:
        raise ValueError(f"{name} has {len(samples)} samples: need {B}, as many as x.")
    return samples


def _product(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _transposed(M: Rows) -> Rows:
    return [list(column) for column in zip(*M, strict=True)]


def _applied(num: Any, M: Rows, x: Rows) -> Rows:
    """M x: each row of the result is the sum of x's rows, weighted by a row of M. Exact zeros cost nothing."""
    answer = []
    for weights in M:
        used = [j for j, w in enumerate(weights) if isinstance(w, Number) or w]
        row = [weights[j] for j in used]
        answer.append([num.fdot(row, [x[j][n] for j in used]) for n in range(len(x[0]))])
    return answer


@cache
def _context(digits: int) -> Any:
    """A context of our own, whose precision nobody changes."""
    ctx = mpmath.MPContext()
    ctx.dps = digits
    return ctx
