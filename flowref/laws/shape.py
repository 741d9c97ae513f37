"""Answers of the right shape and dtype; and the gatekeepers: does the block answer at an edge at all."""

import torch

from flowref.laws.registry import ONCE, law
from flowref.laws.run import Run


def _answers(run: Run) -> None:
    got = run.answer
    for what, value, shape in (("output", got.y, run.case.x.shape), ("log-det", got.logdet, (run.case.B,))):
        run.equal(True, isinstance(value, torch.Tensor), f"whether the {what} is a tensor")
        run.equal(tuple(shape), tuple(value.shape), f"the shape of the {what}")
        run.equal(run.dtype, value.dtype, f"the dtype of the {what}")


@law(
    "y has the shape and dtype of x, logdet shape (B,) and that dtype",
    broken_by="logdet-keeps-an-axis",
    regimes=("rank-0", "rank-1", "rank-2", "rank-3", "gin", "conditions-0", "conditions-3"),
    half=True,
)
def answers_in_shape(run: Run) -> None:
    """The block answers at every rank, in the input's shape and dtype.

    Bound: none; shapes and dtypes are right or wrong.
    Sees: a lost or added axis, another dtype, a rank that raises.
    Blind to: the values.
    Spec: 2, 6. Since: 0.1.
    """
    _answers(run)


@law("B = 0: y is empty with the shape of x, logdet has shape (0,)", broken_by="batch-0-raises",
     gatekeeper="batch-0", edges=("batch-0",), only_edges=True,
    half=True,
)  # fmt: skip
def answers_at_batch_0(run: Run) -> None:
    """The block answers an empty batch.

    Bound: none.
    Sees: pixels counted on sample 0, sizes divided by the batch.
    Blind to: everything else; other laws meet this edge only where this one holds.
    Spec: 6. Since: 0.1.
    """
    _answers(run)


@law("C = 1: nothing is active, the block is the global affine alone", broken_by="one-channel-raises",
     gatekeeper="channels-1", edges=("channels-1",), only_edges=True,
    half=True,
)  # fmt: skip
def answers_at_one_channel(run: Run) -> None:
    """The block answers for one channel.

    Bound: none.
    Sees: a split or mean that can't be empty.
    Blind to: everything else; other laws meet this edge only where this one holds.
    Spec: 6. Since: 0.1.
    """
    _answers(run)


@law("reflections with a hard W₀", broken_by="reflections-need-soft", gatekeeper="reflections-hard",
     edges=("reflections-hard",), only_edges=True)  # fmt: skip
def answers_with_hard_reflections(run: Run) -> None:
    """The block answers with reflections of a hard permutation.

    Bound: none.
    Sees: a constructor that makes W₀ for soft permutations only.
    Blind to: everything else; other laws meet this edge only where this one holds.
    Spec: 3, 5. Since: 0.1.
    """
    _answers(run)


@law("α = 0, where the dialect allows it", broken_by="alpha-0-raises", gatekeeper="alpha-0", edges=("alpha-0",),
     only_edges=True,
    half=True,
)  # fmt: skip
def answers_at_alpha_0(run: Run) -> None:
    """The block answers with a clamp of 0.

    Bound: none.
    Sees: a constructor that refuses 0.
    Blind to: everything else; other laws meet this edge only where this one holds.
    Spec: 3, 6. Since: 0.1.
    """
    _answers(run)


@law("output_dims([dims]) = [dims]", broken_by="output-dims-drops-an-axis", directions=ONCE, needs=("state",),
     precisions=("float32",), regimes=("rank-0", "rank-2"))  # fmt: skip
def output_dims(run: Run) -> None:
    """output_dims returns its argument.

    Bound: none.
    Sees: a graph of blocks that would be built for other shapes.
    Blind to: everything else.
    Spec: 2. Since: 0.1.
    """
    dims = [run.spec.dims]
    run.equal(dims, list(run.ask("output_dims", lambda: run.block.output_dims(dims))), "output_dims([dims])")
