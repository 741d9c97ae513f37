"""What the block computes is what the reference computes."""

from flowref.laws.registry import EDGES, law
from flowref.laws.run import Run


@law(
    "y = W(σ ⊙ u + o), and in reverse x = W(u'), elementwise",
    broken_by="shift-read-from-scale-half",
    regimes=("rank-0", "rank-1", "rank-2", "rank-3", "gin", "soft", "reflections-odd", "reverse-permutation",
             "conditions-2", "channels-over-16", "channels-over-128", "pixels-over-256", "batch-over-64"),
    edges=EDGES,
    half=True,
)  # fmt: skip
def output_equals_reference(run: Run) -> None:
    """The output is the reference's.

    Bound: the error of the pass, carried through every line of the formula.
    Sees: any mistake in the map itself, in either direction; a wrong clamp, order, sign, factor or precision.
    Blind to: the log-det, gradients, state and everything that a single pass does not show.
    Spec: 2, 3. Since: 0.1.
    """
    run.near(run.want.out, run.answer.y, "y" if not run.rev else "x")
