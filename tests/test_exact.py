"""The block in exact arithmetic: tables worked by hand, residuals that fall with the digits, gradients."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from flowref.bounds import FLOAT64
from flowref.cases import Recipe
from flowref.cases.twin import twin
from flowref.exact import Exact, flat, nearest
from flowref.laws.run import wanted
from flowref.spec import BlockSpec, Dialect

DIALECTS = [d.value for d in Dialect]
DIGITS = (30, 60, 120)


def answers(*coefficients):
    """A subnet that answers each pixel with these, and keeps what it was asked."""

    def subnet(ctx, parameters, rows):
        subnet.seen.append(rows)
        return [[ctx.mpf(a)] * len(rows[0]) for a in coefficients]

    subnet.seen = []
    return subnet


def block(dialect, C, S, subnet, *, W=None, s=None, o=None, digits=36, state=None, **flags):
    """A block with the state that is named; what is not is W = I, s = 0, o = 0."""
    one = np.eye(C) if W is None else np.array(W, float)
    column = (1, C, *(1,) * len(S))
    given = {
        "global_scale": np.zeros(column) if s is None else np.array(s, float).reshape(column),
        "global_offset": np.zeros(column) if o is None else np.array(o, float).reshape(column),
    }
    given |= {"w_perm": one, "w_perm_inv": one.T} if state is None else state
    return Exact(BlockSpec(dims=(C, *S), dialect=dialect, **flags), given, subnet, digits)


def close(want, got, digits=34):
    """Whether numbers agree with literals, given to 40 digits, to within so many of the block's 36."""
    ctx = mpmath.MPContext()
    ctx.dps = 50
    want, got = [ctx.mpf(v) for v in want], flat(got)
    return len(want) == len(got) and all(
        abs(g - w) <= ctx.mpf(10) ** -digits * max(1, abs(w)) for w, g in zip(want, got, strict=True)
    )


# One sample, C = 3, N = 2: x = ((1, 2), (3, 4), (5, 6)). The subnet answers a = (5, 10); α = 2; EXP with s = (0, 1, 2),
# so σ = (1, e, e²); o = (10, 20, 30); y_i = v_π(i) with π = (2, 3, 1), counted from 1. So N Σ log σ = 2·3 = 6.
# anomalib: active is x₃, k = 1/2, t = 1, l = 2 tanh ½ = 0.92423…, E = e^l = 2.51993804151334257694714347664906362…
#   v = ((1 + 10, 2 + 10), (3e + 20, 4e + 20), (e²(5E + 1) + 30, e²(6E + 1) + 30)), y = (v₂, v₃, v₁)
#   log-det = 2 l + 6
# freia-main: l = 2 tanh(½/2) = 0.48983732480741825854560226298203391501311746123561, E = 1.632050704197…
# documented: active is x₁, k = 5, t = 10, l = 2 tanh 5 = 1.99981840852519026242198089506894604204, E = 7.3877144311…
#   σu = ((E + 10, 2E + 10), (3e, 4e), (5e², 6e²)), y = ((σu)₂ + 10, (σu)₃ + 20, (σu)₁ + 30)
# Digits by bc -l with scale 60.
BY_HAND = {
    "anomalib": (
        ["28.1548454853771357060808624140579874932717412", "30.8731273138361809414411498854106499910289883",
         "130.488873871788260364707004192032939579827986", "149.108837426359782392202319538324525933157520",
         "11", "12"],
        "7.84846862904003903400927393457469019492115712",
        [["1", "2"], ["3", "4"]],
    ),
    "freia-main": (
        ["28.1548454853771357060808624140579874932717412", "30.8731273138361809414411498854106499910289883",
         "97.6856271469830540158743797309646097081898990", "109.744941356593534773603170185042530087191815",
         "11", "12"],
        "6.97967464961483651711120452596406783002623492",
        [["1", "2"], ["3", "4"]],
    ),
    "documented": (
        ["18.1548454853771357060808624140579874932717412", "20.8731273138361809414411498854106499910289883",
         "56.9452804946532511361521373028750390659015778", "64.3343365935839013633825647634500468790818934",
         "47.3877144311575951742037745301672555435921121", "54.7754288623151903484075490603345110871842243"],
        "9.99963681705038052484396179013789208435925046",
        [["3", "4"], ["5", "6"]],
    ),
}  # fmt: skip
X = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]
TO_231 = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_map_is_what_one_works_out_by_hand(dialect):
    subnet = answers(5, 10)
    one = block(dialect, 3, (2,), subnet, W=TO_231, s=[0, 1, 2], o=[10, 20, 30], global_affine_type="EXP")

    got = one.forward(X)
    back = one.reverse(got.out)

    y, logdet, seen = BY_HAND[dialect]
    assert close(y, got.out)
    assert close([logdet], got.logdet)
    assert close([*seen[0], *seen[1]], subnet.seen[0])
    assert close(["1", "2", "3", "4", "5", "6"], back.out, 33)
    assert close(["-" + logdet], back.logdet)


def test_an_index_vector_is_the_matrix_it_means():
    index = {"w_perm": np.array([1, 2, 0]), "w_perm_inv": np.array([2, 0, 1])}
    one = block(
        "freia-main", 3, (2,), answers(5, 10), s=[0, 1, 2], o=[10, 20, 30], global_affine_type="EXP", state=index
    )

    got = one.forward(X)

    assert close(BY_HAND["freia-main"][0], got.out)
    assert close(["1", "2", "3", "4", "5", "6"], one.reverse(got.out).out, 33)


# C = 1: y = σ x + o and log-det = N log σ, N = 3.
# SIGMOID, s = 2: σ = 10/2 = 5; s = 0: 10/(1 + e²); SOFTPLUS, s = 2: log(1 + e)/5; EXP, s = 1: e.
LOG_5 = "1.6094379124341003746007593332261876395256"
SCALES = [
    ("SIGMOID", 2.0, "5", LOG_5),
    ("SIGMOID", 0.0, "1.19202922022117555940270858697603204793615701",
     "0.175657081951073187574264648326059776166768425"),
    ("SOFTPLUS", 2.0, "0.262652337503644566809799098993571128383056017",
     "-1.3369240319315169720507454442920529509986043"),
    ("EXP", 1.0, "2.71828182845904523536028747135266249775724709", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "s", "sigma", "log_sigma"), SCALES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_global_scale_by_hand(dialect, kind, s, sigma, log_sigma):
    one = block(dialect, 1, (3,), answers(), s=[s], o=[7], global_affine_type=kind)

    got = one.forward([[[1.0, 0.0, -2.0]]])

    ctx = one.ctx
    assert close([sigma], got.sigma)
    assert close([ctx.mpf(sigma) + 7, "7", 7 - 2 * ctx.mpf(sigma)], got.out)
    assert close([3 * ctx.mpf(log_sigma)], got.logdet)


# GIN, C = 4, N = 2, B = 2, α = 2, in the tenths' dialects: a_k = (5, 0) for both pixels of the first active channel,
# so l before the mean is (T, 0 | 0, 0) with T = 2 tanh ½, when only the first pixel of the first channel has k = ½.
# Mean over channels and pixels T/4 = 0.231058578630004879251159241821836274365144640; l = (3T/4, −T/4 | −T/4, −T/4),
# e^(−T/4) = 0.793692971226556001797373684958351060154384278, e^(3T/4) = 2.00005711147555329350034158034926824418417485.
# The second sample has k = ½ everywhere, so l = 0: the mean is its own. σ = 1 whatever s is.
def test_gin_by_hand():
    turn = []

    def subnet(ctx, parameters, rows):
        turn.append(0)
        half, none = ctx.mpf(5), ctx.mpf(0)
        k = [[half, none], [none, none]] if len(turn) % 2 else [[half, half], [half, half]]
        return [*k, [none, none], [none, none]]

    one = block("anomalib", 4, (2,), subnet, s=[1, 2, 3, 4], gin_block=True)
    got = one.forward(np.ones((2, 4, 2)))

    low, high = (
        "0.793692971226556001797373684958351060154384278",
        "2.00005711147555329350034158034926824418417485",
    )
    assert close(["1"] * 4 + [high, low, low, low] + ["1"] * 8, got.out)
    assert close(["0", "0"], got.logdet)
    assert close(["1"] * 4, got.sigma)


# reverse_permutation: z = W⁻¹x. y_i = v_π(i), π = (2, 3, 1), so z = (x₃, x₁, x₂); with zero coefficients and σ = 1
# v = z + o = (x₃ + 10, x₁ + 20, x₂ + 30) and y = (v₂, v₃, v₁). documented: y = W z + o = x + o.
@pytest.mark.parametrize(
    ("dialect", "y", "seen"),
    [
        ("anomalib", ["21", "22", "33", "34", "15", "16"], ["5", "6", "1", "2"]),
        ("freia-main", ["21", "22", "33", "34", "15", "16"], ["5", "6", "1", "2"]),
        ("documented", ["11", "12", "23", "24", "35", "36"], ["1", "2", "3", "4"]),
    ],
)
def test_reverse_permutation_by_hand(dialect, y, seen):
    subnet = answers(0, 0)
    flags = {"reverse_permutation": True, "global_affine_type": "EXP"}
    got = block(dialect, 3, (2,), subnet, W=TO_231, o=[10, 20, 30], **flags).forward(X)

    assert close(y, got.out)
    assert close(seen, subnet.seen[0])


def test_the_stored_inverse_is_what_reverse_applies():
    """docs/block.md: W⁻¹ means w_perm_inv. Here it halves, which no loader would take."""
    state = {"w_perm": np.eye(2), "w_perm_inv": np.eye(2) / 2}
    one = block("anomalib", 2, (), answers(0, 0), state=state, global_affine_type="EXP")

    assert close(["3", "4"], one.reverse([[6.0, 8.0]]).out)


# H along (1, 0): diag(−1, 1); along (2, 2): ((0, −1), (−1, 0)). H₁H₂ = ((0, 1), (−1, 0)); W₀ exchanges.
@pytest.mark.parametrize(
    ("dialect", "W"), [("anomalib", [-1, 0, 0, 1]), ("freia-main", [-1, 0, 0, 1]), ("documented", [1, 0, 0, -1])]
)
def test_the_order_of_reflections_by_hand(dialect, W):
    state = {"w_0": np.array([[0.0, 1.0], [1.0, 0.0]]), "vk_householder": np.array([[1.0, 0.0], [2.0, 2.0]])}
    flags = {"learned_householder_permutation": 2, "global_affine_type": "EXP"}
    got = block(dialect, 2, (), answers(0, 0), state=state, **flags).forward([[0.0, 0.0]])

    assert close(map(str, W), got.W)
    assert got.W_inv == [list(column) for column in zip(*got.W, strict=True)]


# Residuals. W is exactly orthogonal: a permutation, reflections, or the Cayley transform (I − K)(I + K)⁻¹ of a dyadic
# skew K, rounded to the digits at hand. What is left may then depend on the digits alone.

FLAGS = list(
    itertools.product(
        DIALECTS, (False, True), ("permutation", "reflections", "cayley"), (False, True)
    )
)  # fmt: skip


def flagged(turn, dialect, gin, mixing, reverse_permutation):
    """A small case with these flags; the others go round by turn."""
    kinds, subnets = ("SIGMOID", "SOFTPLUS", "EXP"), ("network", "linear", "activation", "constant")
    S = ((), (2,), (1, 2), (1, 2, 1))[turn % 4]
    return Recipe(
        B=1 + turn % 2, C=(3, 2, 4)[turn % 3], S=S, conditions=((), (1,), (1, 2))[turn % 3], gin=gin,
        affine=kinds[turn % 3], alpha=(2.0, 1.5)[turn % 2], reflections=2 * (mixing == "reflections"), seed=turn,
        reverse_permutation=reverse_permutation, dialect=dialect, subnet=subnets[turn // 2 % 4],
    ).case()  # fmt: skip


def exactly_orthogonal(case, mixing, digits):
    one = twin(case, digits)
    if mixing == "cayley":
        ctx, C = one.ctx, case.spec.C
        K = ctx.matrix([[ctx.mpf((j - i) * (1 + (i * j) % 3)) / 4 for j in range(C)] for i in range(C)])
        W = (ctx.eye(C) - K) * (ctx.eye(C) + K) ** -1
        one.state |= {"w_perm": W.tolist(), "w_perm_inv": W.T.tolist()}
    return one


@pytest.mark.parametrize("digits", DIGITS)
def test_residuals_fall_with_the_digits(digits):
    """Inverse, log-det − log|det J| and WᵀW − I: a constant number of digits is lost, however many there are."""
    lost = {}
    for turn, flags in enumerate(FLAGS):
        case = flagged(turn, *flags)
        one = exactly_orthogonal(case, flags[2], digits)
        size = max(map(abs, flat(one.forward(case.x, case.c).out)))
        for rev in (False, True):
            there = (one.reverse if rev else one.forward)(case.x, case.c)
            back = (one.forward if rev else one.reverse)(there.out, case.c)
            by_jacobian = one.log_abs_det(case.x, case.c, rev=rev)
            WtW = [[one.ctx.fdot(a, b) for b in zip(*there.W, strict=True)] for a in zip(*there.W, strict=True)]
            residuals = {
                "inverse": (flat(back.out), flat(twin(case, digits)._inputs(case.x, case.c)[0])),
                "log-dets cancel": ([a + b for a, b in zip(there.logdet, back.logdet, strict=True)], [0] * case.B),
                "log|det J|": (there.logdet, by_jacobian),
                "orthogonal": (flat(WtW), [int(i == j) for i in range(case.spec.C) for j in range(case.spec.C)]),
            }
            for name, (got, want) in residuals.items():
                most = max(abs(g - w) for g, w in zip(got, want, strict=True)) / max(1, size)
                lost[name] = max(lost.get(name, -math.inf), digits + float(one.ctx.log10(most)) if most else -math.inf)

    # Some hundred roundings cost about two digits of the largest number, at 30 digits as at 120.
    assert all(-3 < digit < 2 for digit in lost.values()), lost


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("reflections", [0, 3])
@pytest.mark.parametrize("reverse_permutation", [False, True])
def test_a_rounded_matrix_is_data(dialect, reflections, reverse_permutation):
    """Its transpose serves as W⁻¹, and is off; its true inverse is not. log|det J| holds W's own share."""
    recipe = Recipe(
        C=4,
        S=(2,),
        soft=True,
        reflections=reflections,
        reverse_permutation=reverse_permutation,
        dialect=dialect,
        seed=5,
    )
    case, x = recipe.case(), twin(recipe.case(), 50)._inputs(recipe.case().x, ())[0]
    stored, true = twin(case, 50), twin(case, 50, true_inverse=True)
    far = lambda one: max(  # noqa: E731
        abs(a - b) for a, b in zip(flat(x), flat(one.reverse(one.forward(x).out).out), strict=True)
    )

    assert far(true) < stored.ctx.mpf(10) ** -46
    assert far(stored) > stored.ctx.mpf(2) ** -40

    W_0 = case.state["w_0" if reflections else "w_perm"].reshape(4, 4).tolist()
    share = case.spec.N * stored.ctx.log(abs(stored.ctx.det(stored.ctx.matrix(W_0))))
    assert abs(share) > stored.ctx.mpf(2) ** -40
    for one, inverse in ((stored, 1), (true, -1)):  # the true inverse shrinks by what W grows
        for rev in (False, True):
            logdet = (one.reverse if rev else one.forward)(x).logdet
            factor = (inverse if rev else 1) + reverse_permutation * (1 if rev else inverse)
            for one_logdet, det in zip(logdet, one.log_abs_det(x, rev=rev), strict=True):
                assert abs(one_logdet + factor * share - det) < one.ctx.mpf(10) ** -46


# Gradients, by central differences.


def loss(one, values, gy, gj, rev):
    moved = Exact(one.spec, {name: values[name] for name in one.state}, one.subnet, 100)
    c = [values[f"c{k}"] for k in range(len(one.spec.dims_c))]
    found = (moved.reverse if rev else moved.forward)(values["x"], c)
    pairs = zip([*flat(found.out), *found.logdet], [*flat(gy), *flat(gj)], strict=True)
    return moved.ctx.fdot((a, b) for a, b in pairs)


def moved_by(values, direction, h):
    if isinstance(values, list):
        return [moved_by(v, d, h) for v, d in zip(values, direction, strict=True)]
    return values + h * direction


def directions(values, seed):
    """Small whole numbers of either sign in the shape of nested lists."""
    return [directions(v, 7 * seed + i) for i, v in enumerate(values)] if isinstance(values, list) else seed % 11 - 5


@pytest.mark.parametrize("dialect", DIALECTS)
def test_gradients_are_those_of_central_differences(dialect):
    """Along one direction for each name, h = 1e-30 at 100 digits; and `pullback` is within its bounds of both."""
    worst, names = -math.inf, set()
    for turn, flags in enumerate(FLAGS):
        if flags[0] != dialect:
            continue
        case, rev = flagged(turn + 1, *flags), turn % 2 == 0
        one = twin(case, 100)
        ctx, h = one.ctx, one.ctx.mpf(10) ** -30
        x, c = one._inputs(case.x, case.c)
        gy, gj = case.gy.tolist(), case.gj.tolist()
        got = one.gradient(case.x, case.c, gy, gj, rev=rev)
        values = {"x": x, **{f"c{k}": v for k, v in enumerate(c)}, **one.state}
        by_hand = wanted(case, FLOAT64).gradients(rev, "both")
        largest = max(map(abs, flat(list(got.values()))))
        for name, g in got.items():
            along = directions(values[name], turn + len(name))
            up, down = (
                loss(one, values | {name: moved_by(values[name], along, step)}, gy, gj, rev) for step in (h, -h)
            )
            want = ctx.fdot((a, b) for a, b in zip(flat(g), flat(along), strict=True))
            error = abs((up - down) / (2 * h) - want)
            worst = max(worst, float(ctx.log10(error / largest)) if error else -math.inf)
            names.add(name)

            error = abs(
                by_hand[name].value.flatten() - torch.tensor([nearest(v) for v in flat(g)], dtype=torch.float64)
            )
            assert bool((error <= by_hand[name].error.flatten()).all()), (name, case.describe())

    assert worst < -50  # h² times a third derivative is left
    assert {"x", "c0", "c1", "global_scale", "global_offset", "vk_householder", "subnet.weight"} <= names


# The door, the ends, the context.


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rev", [False, True])
def test_no_sample_and_no_active_channel(dialect, rev):
    for B, C, gin in ((0, 3, False), (2, 1, True)):
        case = Recipe(B=B, C=C, S=(2,), gin=gin, dialect=dialect, reverse_permutation=True).case()
        one = twin(case, 30)
        got = (one.reverse if rev else one.forward)(case.x, case.c)
        gradient = one.gradient(case.x, case.c, case.gy, case.gj, rev=rev)

        assert (len(got.out), len(got.logdet), len(gradient["x"])) == (B, B, B)
        assert flat(gradient["global_offset"]) != [0] or not B


def test_the_global_context_is_neither_read_nor_changed():
    case = Recipe(C=3, soft=True, reflections=2, subnet="network").case()
    go = lambda: [v._mpf_ for v in flat(twin(case, 50).forward(case.x).out)]  # noqa: E731
    before, want = mpmath.mp.prec, go()
    try:
        mpmath.mp.prec = 77
        assert go() == want
        assert mpmath.mp.prec == 77
    finally:
        mpmath.mp.prec = before
    assert twin(case, 50).ctx is not mpmath.mp


def test_digits_do_not_leak_from_one_block_into_another():
    case = Recipe(C=3).case()
    low, high = twin(case, 30), twin(case, 60)
    want = flat(high.forward(case.x).out)
    low.forward(case.x)

    assert flat(high.forward(case.x).out) == want
    assert abs(flat(low.forward(case.x).out)[2] - want[2]) > high.ctx.mpf(10) ** -40


def test_inputs_are_taken_at_their_exact_values():
    """0.1 is the float64 nearest to a tenth; a tenth of the subnet's 1 is a tenth."""
    one = block("anomalib", 2, (), answers(0, 1), global_affine_type="EXP", digits=60)
    y = flat(one.forward([[0.1, 0.0]]).out)

    assert y[0] == one.ctx.mpf(Fraction(0.1).numerator) / Fraction(0.1).denominator
    assert abs(y[1] * 10 - 1) < one.ctx.mpf(10) ** -58


@pytest.mark.parametrize(
    "value", ["0.1", "-0.3", "1e300", "4.9e-324", "-3.1e-320", "2.2250738585072013e-308", "7e-330"]
)
def test_nearest_rounds_once(value):
    ctx = mpmath.MPContext()
    ctx.dps = 400
    exact = Fraction(value)

    assert nearest(ctx.mpf(exact.numerator) / exact.denominator) == float(exact)


def test_nearest_takes_ties_to_even_and_refuses_what_is_too_large():
    ctx = mpmath.MPContext()
    ctx.dps = 50

    assert nearest(1 + ctx.mpf(2) ** -53) == 1.0
    assert nearest(1 + 3 * ctx.mpf(2) ** -53) == 1 + 2.0**-51
    assert nearest(-3 * ctx.mpf(2) ** -1075) == -(2.0**-1073)
    with pytest.raises(OverflowError):
        nearest(ctx.mpf(2) ** 1024)


def test_refuses_what_does_not_fit():
    one = block("anomalib", 3, (2,), answers(5, 10))

    with pytest.raises(ValueError, match="digits=15 is too few: need 20 or more"):
        block("anomalib", 3, (2,), answers(5, 10), digits=15)
    with pytest.raises(ValueError, match=r"x has rows of \[2, 2\] numbers: need the shape \(B, 3\)"):
        one.forward(np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="c holds 1 conditions: need 0"):
        one.forward(np.ones((1, 3, 2)), [np.ones((1, 1, 2))])
    with pytest.raises(ValueError, match="gy has 2 samples: need 1"):
        one.gradient(np.ones((1, 3, 2)), (), np.ones((2, 3, 2)), [1.0])
    with pytest.raises(ValueError, match=r"the subnet answered with rows of \[2\] numbers: need 2 rows"):
        block("anomalib", 3, (2,), answers(5)).forward(X)
