"""The two directions undo each other."""

from flowref.laws.registry import EDGES, ONCE, law
from flowref.laws.run import Run

GENTLE = {"alpha": (1.0, 0.5)}  # round trips through reflections are decided for α <= 1


def _trip(run: Run, rev: bool) -> None:
    there = run.go(rev=rev)
    back = run.go(there.y.detach(), rev=not rev)
    # The reference's own round trip, which is x up to the distance of the stored W from orthogonal: data of the case.
    run.near(run.wanted.trip(rev).out, back.y, "x" if not rev else "y")


@law(
    "reverse(forward(x)) = x",
    broken_by="reverse-keeps-offset",
    regimes=("clamp-curved", "soft", "reflections-odd", "reverse-permutation", "conditions-1"),
    fix=GENTLE,
    directions=ONCE,
    edges=EDGES,
)
def reverse_undoes_forward(run: Run) -> None:
    """Reverse undoes forward.

    Bound: the error of y = forward(x) carried through the reverse pass, and that pass's own rounding; how far the
        stored W is from orthogonal is data of the case.
    Sees: whatever one direction does and the other does not undo.
    Blind to: a mistake made alike in both (`reference` and `logdet` see that).
    Spec: 2. Since: 0.1.
    """
    _trip(run, rev=False)


@law(
    "forward(reverse(y)) = y",
    broken_by="forward-drops-offset-after-reverse",
    regimes=("clamp-curved", "soft", "reflections-odd", "reverse-permutation", "conditions-1"),
    fix=GENTLE,
    directions=ONCE,
    edges=EDGES,
)
def forward_undoes_reverse(run: Run) -> None:
    """Forward undoes reverse, from a block that starts with a reverse pass.

    Bound: the error of x = reverse(y) carried through the forward pass, and that pass's own rounding.
    Sees: a reverse pass that leans on what an earlier forward pass left behind.
    Blind to: a mistake made alike in both directions.
    Spec: 2. Since: 0.1.
    """
    _trip(run, rev=True)


@law(
    "logdet_forward(x) + logdet_reverse(forward(x)) = 0",
    broken_by="reverse-logdet-keeps-sign",
    regimes=("rank-0", "rank-2", "clamp-curved", "reflections-odd"),
    fix=GENTLE,
    directions=ONCE,
)
def log_dets_cancel(run: Run) -> None:
    """The log-dets of the two directions cancel.

    Bound: both log-dets' errors, the second's with the error of its input.
    Sees: a sign or a share that one direction has and the other has not.
    Blind to: log-dets that are wrong alike.
    Spec: 2. Since: 0.1.
    """
    there = run.go(rev=False)
    back = run.go(there.y.detach(), rev=True)
    want = run.wanted.go(False).logdet + run.wanted.trip(False).logdet
    run.equal(run.wanted.go(False).logdet.shape, there.logdet.shape, "the shape of the log-det")
    run.equal(there.logdet.shape, back.logdet.shape, "the shape of the reverse log-det")
    terms = run.wanted.go(False).l_scale.value
    got = there.logdet.double() + back.logdet.double()
    # want is 0 up to the distance of the stored W from orthogonal.
    run.near(want, got, "the sum of both log-dets", scale=float(terms.max()) if len(terms) else 1.0)


@law(
    "forward(x) = W₀x + W₀o and reverse(forward(x)) = x, bit for bit (−0 = 0)",
    broken_by="scale-is-one-plus-epsilon",
    regimes=("subnet-zero",),
    fix={
        "subnet": "zero",
        "soft": False,
        "reflections": 0,
        "affine": "EXP",
        "scale": "one",
        "offset": "zero",
        "bits": 8,
    },
    directions=ONCE,
)
def exact_where_the_arithmetic_is_exact(run: Run) -> None:
    """Nothing is rounded where nothing needs to be: hard permutation, zero coefficients, σ = 1, short numbers.

    Bound: none; every operation of the formula is exact here.
    Sees: a small constant added to a divisor or a scale, needless arithmetic in a lower precision.
    Blind to: everything that depends on coefficients and scales.
    Spec: 6. Since: 0.1.
    """
    there = run.go(rev=False)
    run.same(run.wanted.go(False).out.value.to(run.dtype), there.y.cpu(), "y")
    back = run.go(there.y.detach(), rev=True)
    run.same(run.case.x.to(run.dtype), back.y.cpu(), "x")
