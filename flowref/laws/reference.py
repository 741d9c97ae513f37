"""What the block computes is what the reference computes."""

import torch

from flowref.laws.logdet import scale_of
from flowref.laws.registry import EDGES, LARGE, MANY, law
from flowref.laws.run import THREADS, TURNS, Run, threads


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


@law(
    "f under no_grad and inference_mode = the reference's f",
    broken_by="inference-overwrites-the-active-half",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-odd", "conditions-1", "pixels-over-256"),
    edges=EDGES,
)
def inference_equals_reference(run: Run) -> None:
    """Where no gradient is wanted, output and log-det are the reference's too.

    Bound: the error of the pass.
    Sees: a mistake in a path of its own that a pass without gradients takes: work in place, a buffer used twice, a
        scale folded into a matrix.
    Blind to: passes with gradients, in which all other laws compare values.
    Spec: 2, 6. Since: 0.2.
    """
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x, c = run.inputs
            got = run.go(x.clone(), [v.clone() for v in c])  # tensors of that mode, in the layout of the case
        run.near(run.want.out, got.y, f"the output under {mode.__name__}")
        run.near(run.want.logdet, got.logdet, f"the log-det under {mode.__name__}", scale=scale_of(run))


@law(
    "f at sizes past 1024, 4096 and 65,536 along an axis, 64 along two, and 2¹⁹ in all = the reference's f",
    broken_by=(
        "shift-forgotten-past-65535-samples",
        "shift-forgotten-past-2048-pixels",
        "shift-forgotten-past-524288-numbers",
        "w-sums-64-channels-at-pixels-past-64",
        "w-sums-64-channels-in-samples-past-64",
    ),
    own=LARGE,
    precisions=("float32",),
)
def large_sizes_equal_reference(run: Run) -> None:
    """At sizes past any tile of a kernel, and past the limits of a grid, output and log-det are the reference's.

    Bound: the error of the pass.
    Sees: a tile, block or grid that ends before the samples, channels or pixels do; a product with W whose tiles are
        right at an end of one axis, and wrong at an end of two; samples of a large batch that are taken in turns, some
        of them never.
    Blind to: gradients (`gradient.at-large-sizes`); more than 2³¹ elements.
    Spec: 2. Since: 0.2.
    """
    run.near(run.want.out, run.answer.y, "the output")
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law(
    "f on several threads = the reference's f",
    broken_by="shift-forgotten-behind-equal-shares-of-threads",
    own=MANY,
    precisions=("float32",),
    devices=("cpu",),
)
def several_threads_equal_reference(run: Run) -> None:
    """Where torch has several threads, output and log-det are the reference's too.

    Bound: the error of the pass.
    Sees: work that is cut up among threads, some of it left to none or done by two; sums that threads take from each
        other; scratch that they share.
    Blind to: gradients (`gradient.on-several-threads`); threads that don't follow `torch.set_num_threads`, which all
        other laws meet.
    Spec: 2, 6. Since: 0.2.
    """
    want = run.want
    for _ in range(TURNS):
        with threads(THREADS):
            got = run.go()
        run.near(want.out, got.y, "the output on several threads")
        run.near(want.logdet, got.logdet, "the log-det on several threads", scale=scale_of(run))
