"""The bounds: never exceeded by arithmetic that they are meant for, and not idly wide."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from flowref import bounds, reference
from flowref.bounds import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TF32, Bounded, additions, exact, logdet_error
from flowref.cases import stream
from flowref.faults.plain import PlainBlock
from flowref.laws.run import LawBroken, Meter, Run, Wanted
from flowref.targets.module import Module

N = 20_000


def numbers(seed: int, *shape: int, low: float = -4, high: float = 4) -> Tensor:
    """Random float32 numbers of both signs, magnitudes 2**low … 2**high, held in float64."""
    g = torch.Generator().manual_seed(seed)
    magnitude = 2 ** (low + (high - low) * torch.rand(*shape, generator=g))
    sign = 1 - 2 * (torch.rand(*shape, generator=g) < 0.5).float()
    return (magnitude * sign).float().double()


def known_within(value: Tensor, seed: int, ulps: float) -> tuple[Bounded, Tensor]:
    """A value known to within an error, and a float32 number somewhere in that interval."""
    error = ulps * FLOAT32.u * abs(value)
    g = torch.Generator().manual_seed(seed)
    inside = value + error * (2 * torch.rand(value.shape, generator=g, dtype=torch.float64) - 1)
    rounded = inside.float().double()
    rounded = torch.where(abs(rounded - value) <= error, rounded, value)
    return Bounded(FLOAT32, value, error), rounded


# One operation in float32 on numbers inside their intervals: (rule, the same in float32, exponents of the arguments).
ONE: dict[str, tuple[Callable[..., object], Callable[..., Tensor], tuple[tuple[float, float], ...]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b, ((-4, 4), (-4, 4))),
    "sub": (lambda a, b: a - b, lambda a, b: a - b, ((-4, 4), (-4, 4))),
    "difference": (reference.difference, lambda a, b: a - b, ((-4, 4), (-4, 4))),
    "mul": (lambda a, b: a * b, lambda a, b: a * b, ((-4, 4), (-4, 4))),
    "mul-by-constant": (lambda a: a * 0.3, lambda a: a * 0.3, ((-4, 4),)),
    "div": (lambda a, b: a / b, lambda a, b: a / b, ((-4, 4), (-4, 4))),
    "div-by-10": (lambda a: a / 10, lambda a: 0.1 * a, ((-4, 4),)),
    "exp": (torch.exp, torch.exp, ((-8, 4),)),
    "tanh": (torch.tanh, torch.tanh, ((-8, 3),)),
    "sigmoid": (torch.sigmoid, torch.sigmoid, ((-8, 4),)),
    "softplus": (torch.nn.functional.softplus, torch.nn.functional.softplus, ((-8, 4),)),
    "log": (lambda a: torch.log(abs(a)), lambda a: torch.log(abs(a)), ((-4, 4),)),
    "scaled": (
        lambda a, b: reference.scaled(abs(a), torch.exp(b)),
        lambda a, b: torch.exp(b + torch.log(abs(a))),  # the form that the rule is there for
        ((-4, 4), (-4, 2)),
    ),
    "centred-exp": (
        lambda a, b: torch.exp(a - b),
        lambda a, b: torch.exp(a) * torch.exp(-b),
        ((-4, 1), (-4, 1)),
    ),
}


@pytest.mark.parametrize("ulps", [0, 8])
@pytest.mark.parametrize("name", ONE)
def test_one_operation_stays_within_its_rule_and_near_it(name: str, ulps: float) -> None:
    rule, plain, ranges = ONE[name]
    pairs = [known_within(numbers(i, N, low=a, high=b), i + 9, ulps) for i, (a, b) in enumerate(ranges)]
    want = rule(*(bounded for bounded, _ in pairs))
    got = plain(*(inside.float() for _, inside in pairs)).double()

    ratio = abs(got - want.value) / want.error
    assert float(ratio.nan_to_num(0).max()) <= 1
    assert float(ratio.max()) >= 1 / 20  # the worst of 20,000 comes near


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("order", ["as-it-is", "backwards", "one-by-one", "float32-of-halves"])
def test_contractions_stay_within_gamma_in_any_order(n: int, order: str) -> None:
    a, b = numbers(1, 40, n), numbers(2, 5, n, 3)
    want = torch.einsum("ij,bj...->bi...", exact(a), exact(b))
    fa, fb = a.float(), b.float()
    if order == "backwards":
        fa, fb = fa.flip(1), fb.flip(1)
    if order == "one-by-one":
        got = torch.zeros(5, 40, 3)
        for j in range(n):
            got = got + fa[None, :, j, None] * fb[:, None, j]
    elif order == "float32-of-halves":
        got = sum(torch.einsum("ij,bjn->bin", fa[:, k::2], fb[:, k::2]) for k in (0, 1))
    else:
        got = torch.einsum("ij,bjn->bin", fa, fb)

    assert bool((abs(got.double() - want.value) <= want.error).all())


def test_a_one_hot_product_is_exact() -> None:
    W = torch.eye(5, dtype=torch.float64)[[2, 0, 1, 4, 3]]

    assert not reference.mix(exact(W), exact(numbers(0, 3, 5, 2))).error.any()


def test_tf32_is_wider_than_float32_and_holds_cut_factors() -> None:
    a, b = numbers(1, 40, 64), numbers(2, 5, 64, 3)
    cut = lambda t: (t.float().view(torch.int32) & ~0x1FFF).view(torch.float32)  # noqa: E731 (11 bits, cut)
    got = torch.einsum("ij,bjn->bin", cut(a), cut(b)).double()
    tf32, float32 = (torch.einsum("ij,bj...->bi...", exact(a, arith), exact(b, arith)) for arith in (TF32, FLOAT32))

    assert bool((abs(got - tf32.value) <= tf32.error).all())
    assert not bool((abs(got - float32.value) <= float32.error).all())


@pytest.mark.parametrize(("arith", "dtype"), [(BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)])
def test_half_precisions_round_once_after_float32(arith: bounds.Arithmetic, dtype: torch.dtype) -> None:
    a, b = numbers(1, 8, 16, low=-2, high=2).to(dtype).double(), numbers(2, 5, 16, 3, low=-2, high=2).to(dtype).double()
    want = torch.einsum("ij,bj...->bi...", exact(a, arith), exact(b, arith))
    got = torch.einsum("ij,bjn->bin", a.float(), b.float()).to(dtype).double()
    assert bool((abs(got - want.value) <= want.error).all())

    want = torch.tanh(exact(a, arith)) / 10
    got = (torch.tanh(a.to(dtype)) * 0.1).double()
    assert bool((abs(got - want.value) <= want.error).all())


@pytest.mark.parametrize("n", [2, 16, 17, 1000, 65_536])
def test_sums_of_equal_terms_stay_within_depth_h(n: int) -> None:
    """Equal terms are the worst: their roundings all go one way."""
    x = torch.full((1, n), 0.1).double()
    want = reference.total(exact(x))
    got = x.float().sum(1).double()
    assert bool((abs(got - want.value) <= want.error).all())

    running = np.cumsum(x[0].float().numpy(), dtype=np.float32)[-1]  # one after another
    assert n < 1000 or abs(float(running) - want.value.item()) > want.error.item()


def test_h_is_what_the_specification_grants() -> None:
    assert [additions(n) for n in (0, 1, 2, 16, 100, 10_000)] == [0, 0, 1, 15, 36, 216]


@pytest.mark.parametrize("nnz", [2, 8, 64])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_reflections_keep_the_norm(nnz: int, count: int) -> None:
    """Applied one after another in float32, to rows and to vectors; elementwise rules alone would grow threefold."""
    C = 64
    W, x = torch.eye(C, dtype=torch.float64)[torch.randperm(C, generator=torch.Generator().manual_seed(1))], None
    vs = []
    for k in range(count):
        v = torch.zeros(C, dtype=torch.float64)
        v[torch.randperm(C, generator=torch.Generator().manual_seed(k))[:nnz]] = numbers(k, nnz, low=-2, high=2)
        vs.append(v)
    built, plain = exact(W), W.float()
    x = numbers(99, 3, C)
    for v in vs:
        built = reference.reflect(built, exact(v))
        plain = reference.reflect(plain, v.float())
    assert bool((abs(plain.double() - built.value) <= built.error).all())

    want = reference.mix(built, exact(x))
    vector = x.float()
    for v in reversed(vs):
        vector = reference.reflect(vector, v.float())
    got = (vector @ W.float().T).double()
    assert bool((abs(got - want.value) <= want.error).all())
    assert float(want.error.max() / abs(want.value).max()) < 2.0**-8  # still decides


def test_a_bound_that_is_no_number_is_infinite() -> None:
    undecided = Bounded(FLOAT32, torch.ones(2), torch.tensor([math.inf, math.nan]))

    assert (undecided * 0.0 - undecided).error.tolist() == [math.inf, math.inf]


def test_a_divisor_that_may_be_0_decides_nothing() -> None:
    want = exact(torch.ones(1)) / Bounded(FLOAT32, torch.tensor([1e-3]), torch.tensor([1e-2]))

    assert want.error.item() == math.inf


def test_exact_arguments_of_functions_stay_exact() -> None:
    zero = exact(torch.zeros(3))

    assert not torch.exp(zero).error.any()
    assert not torch.tanh(zero).error.any()
    assert not torch.log(exact(torch.ones(3))).error.any()


def test_underflow_is_granted_and_no_more() -> None:
    tiny = exact(torch.tensor([2.0**-70]))

    assert 0 < (tiny * tiny).error.item() <= FLOAT32.tiny


def test_softplus_may_be_linear_past_20_in_float64_only() -> None:
    s = torch.tensor([20.5, 40.0], dtype=torch.float64)
    granted = torch.nn.functional.softplus(exact(s, FLOAT64)).error
    got = abs(torch.nn.functional.softplus(s) - torch.nn.functional.softplus(s, threshold=40))

    assert bool((got <= granted).all())
    assert float(granted[0]) >= math.exp(-20.5) and float(granted[1]) < 1e-13
    assert float(torch.nn.functional.softplus(exact(s, FLOAT32)).error[1]) < 40 * 10 * FLOAT32.u


def test_a_determinant_moves_no_more_than_its_rule_says() -> None:
    for seed in range(300):
        n = 1 + seed % 12
        J = numbers(seed, n, n, low=-2, high=2) + 4 * torch.eye(n)
        E = 2.0**-20 * abs(numbers(seed + 1, n, n))
        moved = J + E * torch.sign(numbers(seed + 2, n, n))
        first, second = torch.linalg.slogdet(moved)[1], torch.linalg.slogdet(J)[1]

        rounding = (n**3 + 4 * float(abs(first))) * 2.0**-52  # of slogdet itself
        assert float(abs(first - second)) <= logdet_error(J, E) + rounding
    assert logdet_error(torch.zeros(0, 0), torch.zeros(0, 0)) == 0
    assert logdet_error(torch.eye(2), torch.ones(2, 2)) == math.inf


def test_values_of_two_arithmetics_are_in_no_formula_together() -> None:
    """The error of the one would be taken for that of the other, 2²⁹ times too small or too large."""
    one, other = exact(torch.ones(2), FLOAT32), exact(torch.ones(2), FLOAT64)

    with pytest.raises(TypeError, match="a value in float64 meets one in float32"):
        other + one
    assert (one.shared() + other).arith is FLOAT64


def test_what_meets_a_bent_value_stays_as_it_is() -> None:
    certain = exact(torch.ones(2))
    bent = Bounded(replace(FLOAT32, bent=True), torch.ones(2), torch.full((2,), 0.5))

    assert (certain * bent).arith.bent and (bent - certain).arith.bent
    assert not certain.arith.bent
    assert bent.shared().error.isinf().all() and not certain.shared().error.any()


def test_an_operation_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="cosh has no rule"):
        torch.cosh(exact(torch.ones(1)))


def _all_errors(dialect: str) -> dict[tuple[object, ...], Tensor]:
    """Errors of both passes, of their round trips and of all gradients, on rows of every kind."""
    rows = stream.rows("smoke", dialect) + stream.edge_rows("channels-1", dialect)
    errors: dict[tuple[object, ...], Tensor] = {}
    for turn, row in enumerate(row for row in rows if row.B * row.CN <= 1000):
        for rev in (False, True):
            wanted = Wanted(row.case(), (FLOAT32, BFLOAT16, TF32)[turn % 3])
            one = wanted.go(rev)
            found = {"out": one.out, "logdet": one.logdet, "W": one.W, "back": wanted.trip(rev).out}
            found |= {f"by {name}": g for name, g in wanted.gradients(rev, "both").items()}
            errors |= {(row, rev, name): bounded.error for name, bounded in found.items()}
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["anomalib", "freia-main", "documented"])
def test_what_rules_leave_out_of_an_exact_operand_adds_nothing(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = _all_errors(dialect)
    through_matrix = bounds._through_matrix

    def with_errors(W: Bounded, x: Bounded, passed: Tensor, rounded: Tensor) -> tuple[Tensor | None, Tensor]:
        known = not x.error.any() and not W.error.any()  # no norm then, which is no shortcut but the rule
        return (None, passed) if known else through_matrix(W, x, passed, rounded)

    def counted(equation: str, A: Tensor, B: Tensor) -> Tensor:
        return torch.einsum(equation, (A != 0).double(), (B != 0).double())

    with monkeypatch.context() as patch:  # every rule in full: nothing is known to be exact, products are counted
        patch.setattr(Bounded, "sure", property(lambda self: False))
        patch.setattr(Bounded, "is_exact_factor", lambda self, most: not self.error.any() and is_dyadic(self, most))
        patch.setattr(bounds, "_through_matrix", with_errors)
        patch.setattr(bounds, "_products", counted)
        full = _all_errors(dialect)

    assert short.keys() == full.keys()
    for key, error in short.items():
        # Each operation on an error adds at most 2⁻⁵² of the sizes, of which the error is at least 2⁻²⁴: 2⁻²⁸ of it. On
        # the way to an output or gradient lie fewer than 2⁶.
        assert torch.allclose(error, full[key], rtol=2.0**-22, atol=0.0), key


def is_dyadic(one: Bounded, most: int) -> bool:
    mantissa = torch.frexp(one.value).mantissa.abs()
    return one.value.numel() <= most and bool(((mantissa == 0.5) | (mantissa == 0)).all())


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["anomalib", "freia-main", "documented"])
def test_a_plain_float32_block_never_exceeds_its_bound(dialect: str) -> None:
    """5,000 cases in all: outputs and log-dets, round trips, and every gradient of each tenth case."""
    target = Module(PlainBlock, dialect=dialect)
    recipes = stream.rows("ci", dialect)
    meter = Meter()
    for turn in range(1667):
        row = recipes[turn % len(recipes)]
        if row.CN * row.B > 150 and turn >= len(recipes):  # the large ones once
            row = recipes[turn % 16]
        case = type(row)(**{**row.json(), "seed": turn}).case()
        run = Run(case, target, "float32", ("forward", "reverse")[turn % 2], meter=meter)
        try:
            run.near(run.want.out, run.answer.y, "y")
            run.near(run.want.logdet, run.answer.logdet, "logdet")
            if turn % 5 == 0 and (case.spec.affine_clamping <= 1 or not case.spec.learned_householder_permutation):
                back = run.go(run.answer.y.detach(), rev=not run.rev)
                run.near(run.wanted.trip(run.rev).out, back.y, "x")
            if turn % 10 == 0:
                got = run.gradients("both")
                for name, want in run.wanted.gradients(run.rev, "both").items():
                    run.near(want, got[name], name)
        except LawBroken as broken:
            pytest.fail(f"{broken}\n{case.describe()}")

    assert meter.comparisons >= 2 * 1667
    assert meter.ratio <= 1
