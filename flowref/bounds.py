"""How far a correct block can be off: numbers that carry their error through the reference's own lines.

    Arithmetic   one precision: unit roundoff of results, of sums and products, smallest normal number
    Bounded      a float64 value, its elementwise error, and (where it is known to be smaller) the 2-norm of the
                 error over channels; `torch` functions dispatch to the rules of this file
    exact        a tensor that every implementation is given to the last bit
    logdet_error how far log|det J| is off when J is known to within E

Model: running error analysis (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., 2002, ch. 3).
An implementation may rearrange sums, products and contractions as docs/block.md grants. So each value also carries
`size`, the magnitude of its terms before any cancellation, and every operation rounds by the size of its result:
whatever the order, no intermediate is larger. `depth` counts the roundings that a term added later can meet when it
is added first. u and w stand for unit roundoffs, γ(n) = n·w/(1 − n·w) (Higham, lemma 3.1).
A bound that is not a number is infinite: undecided. Derivations: docs/bounds.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arithmetic:
    """One precision.

    u: unit roundoff of a stored result; w: of sums, products and functions, which half precisions compute in float32;
    factor: relative error of each factor of a contraction (tf32); tiny: smallest normal number, below which a result
    may be flushed; w_tiny: the same for w; threshold: whether softplus may be linear past 20, as torch's is in float64;
    bent: the argument of a tanh was uncertain by more than 2⁻¹⁰, so that its error does not shrink in proportion to u.
    """

    name: str
    u: float
    w: float
    tiny: float
    w_tiny: float
    factor: float = 0.0
    threshold: bool = False
    bent: bool = False

    def gamma(self, n: float | Tensor) -> Any:
        """γ(n) of the unit roundoff w."""
        nw = n * self.w
        return nw / (1 - nw)

    @property
    def half(self) -> float:
        """The one rounding of a function, sum or contraction into a half precision; 0 where u = w."""
        return self.u if self.u > self.w else 0.0


FLOAT64 = Arithmetic("float64", 2.0**-53, 2.0**-53, 2.0**-1022, 2.0**-1022, threshold=True)
FLOAT32 = Arithmetic("float32", 2.0**-24, 2.0**-24, 2.0**-126, 2.0**-126)
TF32 = Arithmetic("tf32", 2.0**-24, 2.0**-24, 2.0**-126, 2.0**-126, factor=2.0**-10)  # cut to 11 bits, not rounded
BFLOAT16 = Arithmetic("bfloat16", 2.0**-8, 2.0**-24, 2.0**-126, 2.0**-126)
FLOAT16 = Arithmetic("float16", 2.0**-11, 2.0**-24, 2.0**-14, 2.0**-126)
AUTOCAST = Arithmetic("autocast", 2.0**-8, 2.0**-24, 2.0**-126, 2.0**-126, factor=2.0**-8)  # factors are rounded too
ARITHMETICS = {a.name: a for a in (FLOAT64, FLOAT32, TF32, BFLOAT16, FLOAT16)}

BEND = 2.0**-10  # argument's error up to which the error of tanh grows in proportion, to within 2⁻²¹
EPS = 2.0**-52  # the float64 in which bounds themselves are computed


def additions(n: int) -> int:
    """``h(n) = 2⌈√n⌉ + 16``: the most additions on any path of a sum of n terms (docs/block.md, accuracy)."""
    return 0 if n <= 1 else min(2 * math.ceil(math.sqrt(n)) + 16, n - 1)


class Bounded:
    """A value known to within an error. Shapes of value, error and size agree; `norm` is (B, 1, *S) or None."""

    __slots__ = ("_dyadic", "_sure", "arith", "depth", "error", "norm", "size", "value")
    _dyadic: bool | None
    _sure: bool | None

    def __init__(
        self,
        arith: Arithmetic,
        value: Tensor,
        error: Tensor,
        size: Tensor | None = None,
        *,
        norm: Tensor | None = None,
        depth: float = 0,
    ) -> None:
        if norm is not None:
            norm = torch.nan_to_num(norm, nan=math.inf, posinf=math.inf)
            error = torch.minimum(error, norm)
        self.arith, self.value, self.norm, self.depth = arith, value, norm, depth
        self.error = torch.nan_to_num(error, nan=math.inf, posinf=math.inf)
        self.size = abs(value) if size is None else size
        self._sure = self._dyadic = None

    @classmethod
    def _moved(
        cls, arith: Arithmetic, value: Tensor, error: Tensor, size: Tensor, norm: Tensor | None, depth: float
    ) -> Bounded:
        """Of numbers that another Bounded has, so that its error and norm are in order already."""
        one = cls.__new__(cls)
        one.arith, one.value, one.error, one.size, one.norm, one.depth = arith, value, error, size, norm, depth
        one._sure = one._dyadic = None
        return one

    @property
    def sure(self) -> bool:
        """Whether the value is exact: rules leave out what its error would add. Looked at once."""
        if self._sure is None:
            self._sure = not bool(self.error.any())
        return self._sure

    def is_exact_factor(self, most: int) -> bool:
        """Whether a product with it rounds nothing: exact, 0 or a power of 2; not asked past so many elements."""
        if self.value.numel() > most or not self.sure:
            return False
        if self._dyadic is None:
            self._dyadic = _is_dyadic(self.value)
        return self._dyadic

    def __repr__(self) -> str:
        return f"Bounded({self.value!r} ± {self.error!r}, {self.arith.name})"

    # What a tensor has and the reference asks for.
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    T = property(lambda self: _shuffle(self, lambda t: t.T))

    def __add__(self, other: Any) -> Bounded:
        return add(self, other)

    def __radd__(self, other: Any) -> Bounded:
        return add(other, self)

    def __sub__(self, other: Any) -> Bounded:
        return add(self, neg(other))

    def __rsub__(self, other: Any) -> Bounded:
        return add(other, neg(self))

    def __mul__(self, other: Any) -> Bounded:
        return mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Bounded:
        return div(self, other)

    def __neg__(self) -> Bounded:
        return neg(self)

    def __abs__(self) -> Bounded:
        return Bounded._moved(self.arith, abs(self.value), self.error, self.size, None, self.depth)

    def __getitem__(self, key: Any) -> Bounded:
        cut = _shuffle(self, lambda t: t[key])
        channels_only = isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice)
        if self.norm is not None and channels_only:  # a part's error is no longer than the whole's
            return Bounded(self.arith, cut.value, cut.error, cut.size, norm=self.norm, depth=self.depth)
        return cut

    def __getattr__(self, name: str) -> Any:
        if name in _SHUFFLES:
            return lambda *a, **k: _shuffle(self, lambda t: getattr(t, name)(*a, **k))
        if name in ("sum", "mean"):
            return lambda *a, **k: (total if name == "sum" else mean)(self, *a, **k)
        raise AttributeError(f"Bounded has no {name!r}: give it a rule in flowref.bounds")

    def new_zeros(self, *shape: Any) -> Bounded:
        return exact(self.value.new_zeros(*shape), self.arith)

    def shared(self) -> Bounded:
        """What is in float32 as it is in float64: the error shrinks in proportion to u; not behind a bent tanh."""
        by = math.inf if self.arith.bent else FLOAT64.u / FLOAT32.u
        norm = None if self.norm is None else self.norm * by
        return Bounded(FLOAT64, self.value, self.error * by, self.size, norm=norm, depth=self.depth)

    def stored(self) -> Bounded:
        """The value as it leaves one pass and enters the next: nothing can be rearranged across that."""
        return Bounded(self.arith, self.value, self.error, norm=self.norm)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        if rule is None and func.__name__ in _NAMED:  # an operation of the reference's own: its name and formula
            return _NAMED[func.__name__](func, *args)
        if rule is None:
            raise NotImplementedError(f"{getattr(func, '__name__', func)} has no rule in flowref.bounds")
        return rule(*args, **(kwargs or {}))


_SHUFFLES = {"reshape", "flatten", "expand", "unsqueeze", "squeeze", "movedim", "clone", "transpose", "view"}


def exact(value: Tensor, arith: Arithmetic = FLOAT32) -> Bounded:
    """``value``, which every implementation is given as it stands."""
    value = value.detach().double()
    one = Bounded._moved(arith, value, torch.zeros_like(value), abs(value), None, 0)
    one._sure = True
    return one


@lru_cache(maxsize=1024)
def _constant(number: float, arith: Arithmetic) -> Bounded:
    return exact(torch.tensor(number, dtype=torch.float64), arith)


def _both(a: Any, b: Any) -> tuple[Bounded, Bounded]:
    """Two operands as Bounded; a tensor or number beside a Bounded is exact.

    Raises TypeError for two arithmetics, since their errors have different units.
    """
    one, other = (v.arith if isinstance(v, Bounded) else None for v in (a, b))
    if one and other and one.name != other.name:
        raise TypeError(
            f"a value in {one.name} meets one in {other.name}: the error of their result would be neither's."
        )
    arith = other if one is None or (other is not None and other.bent) else one
    assert arith is not None
    return _lifted(a, arith), _lifted(b, arith)


def _lifted(v: Any, arith: Arithmetic) -> Bounded:
    if isinstance(v, (int, float)) and v:  # a constant of the formulas; the two zeros are one key
        return _constant(float(v), arith)
    if not isinstance(v, Bounded):
        return exact(torch.as_tensor(v, dtype=torch.float64), arith)
    if v.arith is arith or v.arith == arith:
        return v
    return Bounded._moved(arith, v.value, v.error, v.size, v.norm, v.depth)


def _flushed(arith: Arithmetic, rounded: Tensor, value: Tensor, error: Tensor, where: Tensor | None = None) -> Tensor:
    """``rounded`` and what underflow adds to it: a result below tiny may become 0 (docs/block.md, legal)."""
    size = abs(value)
    below = size - error < arith.tiny
    below = below if where is None else below & where
    if not bool(below.any()):
        return rounded
    return rounded + torch.where(below, (size + error).clamp(max=arith.tiny), 0.0)


def _length(t: Tensor) -> Tensor:
    """2-norm over channels, (B, 1, *S). Written out: torch's own over a dimension within takes 30 times as long."""
    return abs(t) if t.shape[1] == 1 else (t * t).sum(1, keepdim=True).sqrt()


def _scaled_norm(a: Bounded, by: Tensor, rest: Tensor) -> Tensor | None:
    """Norm of ``by ⊙ error(a) + rest``; None where a has no norm of its own, or the shapes have no channels."""
    if a.norm is None or rest.ndim < 2:
        return None
    by = abs(by)
    most = by.amax(1, keepdim=True) if by.ndim > 1 and by.shape[1] else by if by.ndim < 2 else by.sum(1, keepdim=True)
    return a.norm * most + _length(rest)


# Elementwise arithmetic.


def neg(a: Any) -> Any:
    """``−a``: exact."""
    if not isinstance(a, Bounded):
        return -a
    return Bounded._moved(a.arith, -a.value, a.error, a.size, a.norm, a.depth)


def _top(a: Bounded) -> Tensor:
    """The largest magnitude of the terms."""
    return a.size if a.sure else a.size + a.error


def add(a: Any, b: Any) -> Bounded:
    """``a + b``.

    Rule: e = e_a + e_b + u·(size_a + size_b) + γ(depth_a)·size_b + γ(depth_b)·size_a.
    Why: either operand may itself be a sum, and the other may be added to its terms first (a bias handed to a matrix
    product). Nothing is rounded where one of them is exactly 0.
    """
    a, b = _both(a, b)
    ar = a.arith
    A, B = _top(a), _top(b)
    rounded = ar.u * (A + B)
    if not (bool(A.all()) and bool(B.all())):
        rounded = torch.where((A == 0) | (B == 0), 0.0, rounded)
    if a.depth:
        rounded = rounded + ar.gamma(a.depth) * B
    if b.depth:
        rounded = rounded + ar.gamma(b.depth) * A
    if ar.tiny > FLOAT32.tiny:  # elsewhere tiny is far below every size that a case draws
        rounded = _flushed(ar, rounded, a.value + b.value, a.error + b.error, rounded > 0)
    error = a.error + b.error + rounded
    norm = None
    if (a.norm is not None or b.norm is not None) and error.ndim >= 2:
        norm = _length(rounded) + sum(x.norm if x.norm is not None else _length(x.error) for x in (a, b))
    return Bounded(ar, a.value + b.value, error, a.size + b.size, norm=norm, depth=a.depth + b.depth + 1)


def difference(plain: Callable[..., Tensor], q: Any, t: Any) -> Bounded:
    """``q − t`` rounded as it stands.

    Rule: e = e_q + e_t + u·|q − t|; the size of what follows is |q − t|. Why: the one difference that is granted
    no rearrangement (docs/block.md, accuracy), so its cancellation is the implementation's own.
    """
    q, t = _both(q, t)
    value = plain(q.value, t.value)
    error = q.error + t.error
    rounded = torch.where((q.size == 0) | (t.size == 0), 0.0, q.arith.u * (abs(value) + error))
    return Bounded(q.arith, value, error + rounded)


def _is_dyadic(t: Tensor) -> bool:
    """Whether every element is 0 or a power of 2, so that a product with it is exact."""
    mantissa = torch.frexp(t).mantissa.abs()
    return bool(((mantissa == 0.5) | (t == 0)).all())


def mul(a: Any, b: Any) -> Bounded:
    """``a ⊙ b``.

    Rule: e = e_a·size_b + size_a·e_b + e_a·e_b + u·size_a·size_b; a factor that is a power of 2 rounds nothing; a
    constant of the formulas is itself rounded once, u more. Why sizes and not values: a factor may be spread over the
    terms of a sum, where its error no longer cancels.
    """
    number = not isinstance(a, (Bounded, Tensor)) or not isinstance(b, (Bounded, Tensor))
    a, b = _both(a, b)
    size = a.size * b.size
    passed = _passed(lambda x, y: x * y, a, b, size)
    exact_by = any(x.is_exact_factor(1024) for x in (a, b))
    rounded = torch.zeros_like(size) if exact_by else (2 if number else 1) * a.arith.u * (size + passed)
    value = a.value * b.value
    rounded = _flushed(a.arith, rounded, value, passed)
    norm = None
    for x, y in ((a, b), (b, a)):
        if x.norm is not None:
            norm = _scaled_norm(x, y.value, rounded if y.sure else (x.size + x.error) * y.error + rounded)
    return Bounded(a.arith, value, passed + rounded, size, norm=norm, depth=max(a.depth, b.depth))


def _passed(times: Callable[[Tensor, Tensor], Tensor], a: Bounded, b: Bounded, like: Tensor) -> Tensor:
    """What the factors' errors become in a product, element by element or contracted: nothing of one that is exact."""
    if a.sure:
        return torch.zeros_like(like) if b.sure else times(a.size, b.error)
    if b.sure:
        return times(a.error, b.size)
    return times(a.error, b.size) + times(a.size, b.error) + times(a.error, b.error)


def scaled(plain: Callable[..., Tensor], sigma: Any, u: Any) -> Bounded:
    """``σ ⊙ u`` where σ may be spread: the rule of `mul`, with σ's relative error raised by 8w|log σ|, 2u more in half.

    Why: exp(l + log σ) for σ·exp(l) rounds log σ (4w|log σ|), the sum (w|log σ|) and has an exponential whose error
    grows with the argument (2w|log σ|); the share of |l| is in the rule of `exp`.
    """
    sigma, u = _both(sigma, u)
    more = (8 * sigma.arith.w + 2 * sigma.arith.half) * abs(torch.log(sigma.value)) * sigma.value
    return mul(Bounded(sigma.arith, sigma.value, sigma.error + more), u)


def div(a: Any, b: Any) -> Bounded:
    """``a / b``.

    Rule: e = (e_a + size_a·e_b/|b|) / (|b| − e_b) + (6w, and 3u in half precision)·size/|b|; infinite where b may
    be 0. Why 6: a rounded constant (w), its reciprocal within 2 ulps (4w), a product (w). By a power of 2: exact.
    """
    a, b = _both(a, b)
    ar, B = a.arith, abs(b.value)
    room = torch.where(B > b.error, B - b.error, torch.nan)
    size = a.size / B
    passed = (a.error if b.sure else a.error + size * b.error) / room
    rounded = torch.zeros_like(passed) if b.is_exact_factor(1024) else (6 * ar.w + 3 * ar.half) * (size + passed)
    value = a.value / b.value
    rounded = _flushed(ar, rounded, value, passed)
    norm = None
    if a.norm is not None:
        norm = _scaled_norm(a, 1 / room, rounded if b.sure else (size * b.error) / room + rounded)
    return Bounded(ar, value, passed + rounded, size, norm=norm, depth=a.depth)


# Functions: the argument's error is carried through by the function itself at both ends of the interval (all are
# monotonic), and the library's own error, in ulps (1 ulp = 2w), is that of docs/block.md, accuracy.


def _function(a: Bounded, f: Callable[[Tensor], Tensor], ulps: float | Tensor, fixed: float | None = None) -> Bounded:
    value = f(a.value)
    passed = torch.zeros_like(value)
    if not a.sure:
        low, high = f(a.value - a.error), f(a.value + a.error)
        passed = torch.maximum(abs(high - value), abs(value - low))
        passed = torch.where(a.error > 0, passed + EPS * abs(value), 0.0)
    rounded = (2 * a.arith.w * ulps + a.arith.half) * (abs(value) + passed)
    rounded = _flushed(a.arith, rounded, value, passed)
    if fixed is not None:  # an argument at which every library is exact, such as exp(0)
        there = a.value == fixed
        rounded = torch.where(there & (a.error == 0), 0.0, rounded) if bool(there.any()) else rounded
    return Bounded(a.arith, value, passed + rounded)


def exp(a: Bounded) -> Bounded:
    """``exp(a)``: (2 + size) ulps, half as much again of the size, and 2 ulps more for an argument that is a sum.

    Why: exp2-based forms round argument·log2(e); ``exp(l − mean)`` may be ``exp(l)·exp(−mean)``, and ``exp(l)·σ`` may
    be ``exp(l + log σ)``, whose sum is rounded by |l| too, in half precision by u·|l|. exp(0) = 1.
    """
    ar, size = a.arith, a.size + a.error
    return _function(a, torch.exp, (5 if a.depth else 2) + (1.5 + ar.half / (2 * ar.w)) * size, fixed=0.0)


def log(a: Bounded) -> Bounded:
    """``log(a)``: 2 ulps; log(1) = 0."""
    low = torch.where(a.value > a.error, a.value - a.error, torch.nan)
    return _function(Bounded(a.arith, a.value, torch.where(low.isnan(), torch.nan, a.error)), torch.log, 2, fixed=1.0)


def tanh(a: Bounded) -> Bounded:
    """``tanh(a)``: 4 ulps, near 0 too; never off by more than 1 + |tanh|, its range."""
    one = _function(a, torch.tanh, 4, fixed=0.0)
    arith = replace(one.arith, bent=True) if bool((a.error > BEND).any()) else one.arith
    return Bounded(arith, one.value, torch.minimum(one.error, 1 + abs(one.value)))


def sigmoid(a: Bounded) -> Bounded:
    """``1/(1 + exp(−a))``: 4 ulps; where softplus may be linear (a > 20, float64) its derivative may be 1."""
    return _granted(a, _function(a, torch.sigmoid, 4))


def softplus(a: Bounded, threshold: float = 40) -> Bounded:
    """``log(1 + exp(a))``: 4 ulps; in float64 exp(−a) more for a > 20, where torch's softplus is linear."""
    return _granted(a, _function(a, lambda t: torch.nn.functional.softplus(t, threshold=threshold), 4))


def _granted(a: Bounded, one: Bounded) -> Bounded:
    if not a.arith.threshold:
        return one
    granted = torch.where(a.value + a.error > 20, torch.exp(-a.value + a.error), 0.0)
    return Bounded(one.arith, one.value, one.error + granted)


# Sums and contractions.


def total(a: Bounded, dim: Any = None) -> Bounded:
    """Sum of n terms: e = Σ e_a + γ(h(n))·Σ size, h(n) of `additions` (Higham, section 4.2: depth decides)."""
    dims = tuple(range(a.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    n = math.prod(a.shape[i] for i in dims)
    plain = lambda t: t.sum(dims)  # noqa: E731
    value, passed, size, h = plain(a.value), plain(a.error), plain(a.size), additions(n)
    rounded = (a.arith.gamma(h) + a.arith.half) * (size + passed)
    return Bounded(a.arith, value, passed + rounded, size, depth=h)


def mean(a: Bounded, dim: Any = None) -> Bounded:
    """Sum, then a division by the count; what is left is one number, none of whose terms joins another sum."""
    one = total(a, dim)
    n = a.value.numel() // max(one.value.numel(), 1)
    one = div(one, torch.tensor(float(n), dtype=torch.float64)) if n else div(one, torch.tensor(math.nan))
    return Bounded(one.arith, one.value, one.error)


def einsum(equation: str, a: Any, b: Any) -> Bounded:
    """A contraction of k products, summed in any order.

    Rule: e = Σ(size_a·e_b + e_a·size_b + e_a·e_b) + γ(k)·Σ size_a·size_b, twice k where a factor is itself a sum,
    since ``W(σu + o)`` may be ``(Wσ)u + W·o`` (Higham, section 3.1). k counts products that are not exactly 0; a
    product with a power of 2 is exact. tf32 adds the error of both cut factors.
    """
    a, b = _both(a, b)
    ar = a.arith
    s = lambda x, y: torch.einsum(equation, x, y)  # noqa: E731
    value, size = s(a.value, b.value), s(a.size, b.size)
    if a.sure or b.sure:
        passed = _passed(s, a, b, size)
        top = size if a.sure and b.sure else size + passed
    else:
        top = s(_top(a), _top(b))
        passed = (top - size).clamp(min=0)
    if not a.sure:
        passed = passed + 4 * EPS * top  # the difference above cancels
    k = _products(equation, _top(a), _top(b))
    count = _roundings(a, b, k)
    some = count > 0
    rounded = (ar.gamma(count) + ar.half * some + 2 * ar.factor * (k > 0)) * top + count * ar.w_tiny
    rounded = _flushed(ar, rounded, value, passed, some if isinstance(some, Tensor) else torch.tensor(some))
    norm = None
    if _is_mixing(equation):
        norm, passed = _through_matrix(a, b, passed, rounded)
    depth = (float(k.max()) if k.numel() else 0.0) if isinstance(k, Tensor) else k * (size.numel() > 0)
    return Bounded(ar, value, passed + rounded, size, norm=norm, depth=depth)


@cache
def _is_mixing(equation: str) -> bool:
    """Whether it is a matrix applied to channels."""
    return re.fullmatch(r"(\w)(\w),b\2\.\.\.->b\1\.\.\.", equation) is not None


def _products(equation: str, A: Tensor, B: Tensor) -> Any:
    """How many products that are not exactly 0 each element sums: one number where no factor is 0."""
    if bool(A.all()) and bool(B.all()):
        return float(_terms(equation, A.shape, B.shape))
    return torch.einsum(equation, (A != 0).double(), (B != 0).double())


@lru_cache(maxsize=4096)
def _terms(equation: str, A: torch.Size, B: torch.Size) -> int:
    """How many products each element of a contraction sums: sizes of what stands in a factor and not in the result."""
    terms, _, result = equation.partition("->")
    sizes: dict[str, int] = {}
    for factor, shape in zip(terms.split(","), (A, B), strict=True):
        letters = factor.removesuffix("...")
        sizes |= dict(zip(letters, shape, strict=False)) | {"...": math.prod(shape[len(letters) :])}
    return math.prod(n for name, n in sizes.items() if name not in result)


def _roundings(a: Bounded, b: Bounded, k: Any) -> Any:
    """Roundings that a product of the contraction meets."""
    if a.depth or b.depth:
        return 2 * k + 1
    return k - (k > 0) * 1.0 if any(x.is_exact_factor(2**18) for x in (a, b)) else k


def _through_matrix(W: Bounded, x: Bounded, passed: Tensor, rounded: Tensor) -> tuple[Tensor | None, Tensor]:
    """Errors of ``W x`` by norms: a matrix near orthogonal keeps them; W's own error is known by rows.

    Rule: ‖W δx‖ ≤ ‖W‖₂‖δx‖ with ‖W‖₂ ≤ √(1 + ‖WᵀW − I‖_F); ``|δW x|_i ≤ ‖δW_i‖‖x‖``.
    """
    if W.shape[0] != W.shape[1]:
        return None, passed
    if x.sure and W.sure:
        return None, passed
    V = W.value
    grow = math.sqrt(1 + float((V.T @ V - torch.eye(len(V), dtype=V.dtype)).norm()))
    reach = x.norm if x.norm is not None else _length(x.error)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    by_row, by_all = _length(V).reshape(shape) * reach, grow * reach
    if W.norm is not None or not W.sure:
        own = W.norm if W.norm is not None else _length(W.error)  # (C, 1)
        lengths = _length(x.value) + reach
        by_row, by_all = by_row + own.reshape(shape) * lengths, by_all + float(own.norm()) * lengths
    return by_all + _length(rounded), torch.minimum(passed, by_row)


def reflect(plain: Callable[..., Tensor], w: Any, v: Any) -> Bounded:
    """Rows of w reflected along v, in any of the usual forms.

    Rule: a row's error keeps its norm and gains (5·nnz(v) + 24)·w·‖row on v's support‖ (with cut factors 6·factor·‖row‖
    more, as ‖|H|‖₂ <= 3); elements on the support of
    any reflection so far may be off by as much, others stay as they were (Higham, lemma 19.2). The first reflection
    also pays for a product of w with a vector, which may be done instead of building the matrix.
    """
    w, v = _both(w, v)
    ar, vv = w.arith, v.value
    support = vv != 0
    c = (5 * int(support.sum()) + 24) * (ar.w + ar.half)
    value = plain(w.value, vv)
    norm = w.norm
    if norm is None:
        k = (w.value != 0).sum(1, keepdim=True).double()
        norm = _length(w.error) + ar.gamma(torch.where(k > 1, k, 0.0)) * _length(w.value)
    norm = norm + c * (_length(w.value[:, support]) + norm) + 6 * ar.factor * (_length(w.value) + norm)
    touched = support | (w.error > 0) | bool(ar.factor)
    error = torch.where(touched, norm.expand_as(value), w.error)
    return Bounded(ar, value, error, norm=norm)


def reflect_pullback(plain: Callable[..., Tensor], g: Any, w: Any, v: Any) -> Bounded:
    """Gradient by v of a reflection of w's rows, g the gradient by the result.

    Rule: ‖error‖ ≤ 2/‖v‖ Σ_rows (‖g‖·n_w + n_g·‖w‖ + n_g·n_w) + 8κ/‖v‖ Σ_rows ‖size_g‖‖w‖, with
    κ = γ(depth_g + rows + 5·nnz(v) + 24), and the factors' error with cut factors. Why: the gradient is linear in g
    and in w, and a row contributes at most 2‖g‖‖w‖/‖v‖, since g's and w's shares along v cancel in it.
    """
    g, w = _both(g, w)
    _, v = _both(g, v)
    ar, vv = g.arith, v.value
    value = plain(g.value, w.value, vv)
    n_g = g.norm if g.norm is not None else _length(g.error)
    n_w = w.norm if w.norm is not None else _length(w.error)
    G, S, R = _length(g.value), _length(g.size + g.error), _length(w.value)
    kappa = ar.gamma(g.depth + len(value) + 5 * int((vv != 0).sum()) + 24) + ar.half + 4 * ar.factor
    error = (2 * (G * n_w + n_g * R + n_g * n_w) + 8 * kappa * S * (R + n_w)).sum() / vv.norm()
    size = (2 * S * R).sum() / vv.norm()
    return Bounded(ar, value, error.expand_as(value), size.expand_as(value))


# Operations that move numbers and round nothing.


def _shuffle(a: Bounded, move: Callable[[Tensor], Tensor]) -> Bounded:
    one = Bounded._moved(a.arith, move(a.value), move(a.error), move(a.size), None, a.depth)
    one._sure = a._sure or None  # a part of what is not exact may be
    return one


def cat(parts: Sequence[Any], dim: int = 0) -> Bounded:
    """Concatenation: what was a sum is stored here, so later terms meet at most one more rounding."""
    bounded = [p for p in parts if isinstance(p, Bounded)]
    one = next((p for p in bounded if p.arith.bent), bounded[0])
    lifted = [_both(p, one)[0] for p in parts]
    join = lambda name: torch.cat([getattr(p, name) for p in lifted], dim)  # noqa: E731
    norm = None
    if dim == 1 and any(p.norm is not None for p in lifted):
        lengths = [p.norm if p.norm is not None else _length(p.error) for p in lifted]
        norm = torch.stack(lengths).norm(dim=0)
    depth = min(1.0, max(p.depth for p in lifted))
    return Bounded(one.arith, join("value"), join("error"), join("size"), norm=norm, depth=depth)


def stack(parts: Sequence[Any], dim: int = 0) -> Bounded:
    return cat([p.unsqueeze(dim) for p in parts], dim)


def _pad(a: Bounded, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Bounded:
    return _shuffle(a, lambda t: torch.nn.functional.pad(t, pad, mode, value))


_RULES: dict[Any, Callable[..., Any]] = {
    torch.add: add,
    torch.Tensor.add: add,
    torch.Tensor.__add__: add,
    torch.Tensor.__radd__: lambda a, b: add(b, a),
    torch.sub: lambda a, b: add(a, neg(b)),
    torch.Tensor.sub: lambda a, b: add(a, neg(b)),
    torch.Tensor.__sub__: lambda a, b: add(a, neg(b)),
    torch.Tensor.__rsub__: lambda a, b: add(b, neg(a)),
    torch.rsub: lambda a, b: add(b, neg(a)),
    torch.mul: mul,
    torch.Tensor.mul: mul,
    torch.Tensor.__mul__: mul,
    torch.Tensor.__rmul__: mul,
    torch.div: div,
    torch.Tensor.div: div,
    torch.Tensor.__truediv__: div,
    torch.neg: neg,
    torch.abs: abs,
    torch.exp: exp,
    torch.log: log,
    torch.tanh: tanh,
    torch.sigmoid: sigmoid,
    torch.nn.functional.softplus: softplus,
    torch.sum: total,
    torch.mean: mean,
    torch.einsum: einsum,
    torch.cat: cat,
    torch.stack: stack,
    torch.clone: lambda a: a,
    torch.zeros_like: lambda a: exact(torch.zeros_like(a.value), a.arith),
    torch.nn.functional.pad: _pad,
}
_NAMED = {f.__name__: f for f in (difference, scaled, reflect, reflect_pullback)}


def logdet_error(J: Tensor, E: Tensor) -> float:
    """How far ``log|det|`` is off for a matrix J (n, n) known elementwise to within E.

    Rule: with F = |J⁻¹|E and ρ an upper bound of its spectral radius, at most tr F + n·(−log(1 − ρ) − ρ); infinite
    for ρ >= 1. Why: log det(I + X) = Σ (−1)^(k+1) tr(Xᵏ)/k with |X| <= F elementwise, and tr Fᵏ <= n ρᵏ
    (Stewart and Sun, *Matrix Perturbation Theory*, 1990, section II.2; Higham, section 14.6 for the factorisation,
    whose own n³ roundings enter through E).
    """
    n = len(J)
    if n == 0:
        return 0.0
    F = torch.linalg.inv(J).abs() @ E
    rho = min(float(F.sum(0).max()), float(F.sum(1).max()), float(F.norm()))
    if not rho < 1:
        return math.inf
    return float(F.trace()) + n * (-math.log1p(-rho) - rho)
