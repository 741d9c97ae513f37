"""How tensors lie in memory changes nothing: strides are followed, nothing else is read, everything is written.

Only this family draws layouts; all others are given contiguous inputs.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from flowref.cases.layouts import lay_out
from flowref.laws.logdet import scale_of
from flowref.laws.registry import law
from flowref.laws.run import Run

STRIDED = ("channels-last", "strided", "transposed", "expanded")
SMALL = {"max_CN": 64, "max_B": 5, "alpha": (1.0, 2.0), "C": (2, 3, 4, 5)}
REGIMES = tuple(f"layout-{name}" for name in STRIDED)
NEEDS = ("layout",)


def _pass_is_right(run: Run) -> None:
    run.near(run.want.out, run.answer.y, "the output")
    run.near(run.want.logdet, run.answer.logdet, "the log-det", scale=scale_of(run))


@law(
    "f(x, c) does not depend on the strides of x and c",
    broken_by=("input-read-as-contiguous", "conditions-read-as-contiguous", "channels-last-taken-for-contiguous",
               "samples-behind-the-storage-are-zero", "input-of-one-channel-read-as-contiguous"),
    regimes=(*REGIMES, "conditions-1", "rank-0", "rank-2"),
    fix={**SMALL, "layout": STRIDED},
    precisions=("float32",),
    needs=NEEDS,
    rows=48,
    edges=("channels-1",),
)  # fmt: skip
def strides_are_followed(run: Run) -> None:
    """Inputs and conditions in any layout give the contiguous result.

    Bound: the error of the pass.
    Sees: memory that is read as if it were contiguous: channels-last, strided, transposed, expanded over the batch.
    Blind to: contiguous inputs; layouts in backward.
    Spec: 6. Since: 0.2.
    """
    _pass_is_right(run)


@law(
    "f does not depend on the strides of the state",
    broken_by="scale-read-as-contiguous",
    regimes=("rank-0", "rank-2", "gin", "soft", "reflections-even"),
    fix={**SMALL, "layout": "contiguous", "reflections": (0, 0, 2)},
    precisions=("float32",),
    needs=(*NEEDS, "state"),
    rows=12,
)
def strides_of_the_state_are_followed(run: Run) -> None:
    """Parameters and buffers that were set, through .data, to memory in another order give the same function.

    Bound: the error of the pass.
    Sees: a parameter or W that is read as if it were contiguous, as a part of a larger tensor or a transpose is not.
    Blind to: layouts of inputs (`strides-are-followed`).
    Spec: 6. Since: 0.2.
    """
    for v in run.ask("the state", lambda: run.target.state(run.block)).values():
        v.data = lay_out(v.data, "strided")
    _pass_is_right(run)


@law(
    "backward does not depend on the strides of x and c",
    broken_by="saved-input-read-as-contiguous",
    regimes=(*REGIMES, "rank-0", "rank-2"),
    fix={**SMALL, "layout": STRIDED, "subnet": ("linear", "network", "convolutional")},
    precisions=("float32",),
    needs=(*NEEDS, "gradient"),
    rows=32,
)
def strides_are_followed_in_backward(run: Run) -> None:
    """Gradients by inputs and conditions in any layout are the reference's.

    Bound: as of `gradient.by-input`.
    Sees: a backward that reads what it kept of the input as if it were contiguous.
    Blind to: incoming gradients of special layouts (`gradient` draws those).
    Spec: 6. Since: 0.2.
    """
    want, got = run.wanted.gradients(run.rev, "both"), run.gradients("both")
    for name in ("x", *(f"c{k}" for k in range(len(run.case.c)))):
        run.near(want[name], got[name], f"the gradient by {name}")


@law(
    "f reads no element outside x and c",
    broken_by=("input-read-from-the-start-of-its-storage", "reads-past-the-end-times-0"),
    regimes=("layout-offset", "rank-0", "rank-2", "conditions-1"),
    fix={**SMALL, "layout": "offset"},
    precisions=("float32",),
    needs=NEEDS,
    rows=24,
)
def nothing_outside_is_read(run: Run) -> None:
    """Nothing before or behind the elements of an input is read: NaN lies there, in a larger storage.

    Bound: the error of the pass.
    Sees: an offset into the storage that is ignored, a last block that reads past the end, masked by a product.
    Blind to: what is read and never used.
    Spec: 6. Since: 0.2.
    """
    _pass_is_right(run)


@contextmanager
def _filled() -> Iterator[None]:
    """Uninitialised memory is NaN: torch fills it where it is asked for deterministic algorithms."""
    settings: Any = torch.utils.deterministic  # the module is also an attribute holder, which its types don't say
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = settings.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@law(
    "every element of y and logdet is written, memory being NaN before",
    broken_by=("gin-logdet-not-written", "masked-sum-over-unwritten-memory"),
    regimes=("gin", "rank-0", "rank-2", "reflections-1"),
    fix={**SMALL, "layout": "contiguous"},
    precisions=("float32",),
    rows=32,
)
def every_element_is_written(run: Run) -> None:
    """Each element of the outputs is written, and nothing is made of memory that was not.

    Bound: the error of the pass; what is not written is NaN.
    Sees: an element of a new output that is left as memory came, and zeros that were hoped for there.
    Blind to: memory that does not come from torch's allocating functions.
    Spec: 6. Since: 0.2.
    """
    with _filled():
        _pass_is_right(run)
