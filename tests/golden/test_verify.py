"""Targets against the vectors: right ones hold, wrong ones break, and what was left out is said."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from flowref.fast import AllInOneBlock
from flowref.faults import corpus, variants
from flowref.faults.plain import PlainBlock
from flowref.gate.options import Unusable
from flowref.golden import commands
from flowref.golden.reading import Golden
from flowref.golden.verify import against_target, judge
from flowref.spec import Dialect
from flowref.targets.module import Module

DIALECTS = [d.value for d in Dialect]


def some(golden, step, start=0):
    return Golden(golden.folder, golden.vectors[start::step])


def run(golden, target, *skip):
    """Exit code, and what was said."""
    said = []
    return against_target(golden, target, skip, "cpu", said.append), "\n".join(said)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("make", [AllInOneBlock, PlainBlock], ids=["fast", "plain"])
def test_right_blocks_hold(golden, make, dialect):
    code, said = run(some(golden, 12), Module(make, name="block", dialect=dialect))

    assert (code, said.splitlines()[-1][:9]) == (0, "Held: all"), said


@pytest.mark.parametrize("id", ["einsum-for-matmul", "index-permutation", "scale-and-offset-folded"])
def test_another_way_of_writing_it_holds(golden, id):
    code, said = run(some(golden, 16, 3), Module(variants.find(id).make(), name=id, dialect="freia-main"))

    assert code == 0, said


@pytest.mark.parametrize("judged_in", DIALECTS)
@pytest.mark.parametrize("written_in", DIALECTS)
def test_a_block_of_another_dialect_breaks(golden, written_in, judged_in):
    class Block(PlainBlock):
        def __init__(self, dims_in, **flags):
            super().__init__(dims_in, **flags | {"dialect": written_in})

    code, said = run(some(golden, 40), Module(Block, name="block", dialect=judged_in))

    assert code == (written_in != judged_in), said


FAULTS = (
    "reverse-keeps-offset",
    "reverse-ignores-conditions",
    "logdet-of-active-scales-only",
    "logdet-keeps-an-axis",
    "gin-logdet-before-centring",
    "shift-read-from-scale-half",
)


@pytest.mark.parametrize("id", FAULTS)
def test_a_fault_breaks(golden, id):
    fault = corpus.find(id)
    target = Module(corpus.build(fault), name=id, dialect=fault.dialects[0])
    own = [v for v in golden.vectors if v.entry["spec"]["dialect"] == fault.dialects[0]]

    assert any(judge(v, target, "cpu").failures for v in own)


class Raises(PlainBlock):
    def forward(self, *given, **more):
        raise RuntimeError("not today")


def test_a_target_that_raises_everywhere_gives_no_evidence(golden):
    code, said = run(some(golden, 60), Module(Raises, name="block"))

    assert code == 5
    assert "the forward pass raised RuntimeError: not today" in said
    assert said.splitlines()[-1] == "No evidence: every pass raised."


def test_nothing_judged_is_no_evidence(golden):
    code, said = run(some(golden, 60), Module(PlainBlock, name="block"), *(f"rank-{n}" for n in range(4)))

    assert (code, said.splitlines()[-1]) == (5, "No evidence: no vector was judged.")


def test_a_set_without_vectors_of_the_dialect_names_those_that_it_has(golden):
    others = [v for v in golden.vectors if v.entry["spec"]["dialect"] == "freia-main"]
    code, said = run(Golden(golden.folder, others[:2]), Module(PlainBlock, name="block"))

    assert code == 5
    assert said.splitlines()[-1].endswith("dialect anomalib, but of freia-main. Name it with --dialect.")


class NoEmptyBatch(PlainBlock):
    def forward(self, x, *given, **more):
        if not len(x[0]):
            raise IndexError("empty")
        return super().forward(x, *given, **more)


def test_what_is_skipped_is_said(golden):
    empty = Golden(golden.folder, tuple(v for v in golden.vectors if "batch-0" in v.entry["flags"]))
    ids = {v.id for v in empty.vectors}
    both = Golden(golden.folder, (*empty.vectors, *(v for v in golden.vectors[:60] if v.id not in ids)))
    target = Module(NoEmptyBatch, name="block")

    code, said = run(both, target)
    assert (code, said.splitlines()[-1][-23:]) == (1, " None held of: batch-0.")
    assert "3 like this:" in said
    code, said = run(both, target, "batch-0")
    assert code == 0
    assert "Skipped, not judged: 3 of batch-0 (an empty batch)." in said


def test_an_unknown_flag_is_refused_with_the_nearest(golden):
    with pytest.raises(Unusable, match="--skip='batch0' is no flag. Did you mean batch-0?"):
        run(golden, Module(PlainBlock, name="block"), "batch0")


def test_a_failure_names_vector_place_and_numbers(golden):
    class Off(PlainBlock):
        def forward(self, *given, **more):
            (y,), logdet = super().forward(*given, **more)
            return (y,), logdet + 1

    code, said = run(some(golden, 60), Module(Off, name="block"))

    assert code == 1
    assert "BROKEN " in said
    assert "float64: forward.logdet[0]: got " in said
    assert "want " in said and "bound " in said


def test_a_folder_that_is_not_there_cannot_be_used(tmp_path):
    with pytest.raises(Unusable, match="is no folder: need one that flowref golden wrote"):
        commands.check_files(str(tmp_path / "none"), 1, Console(file=StringIO()))


class NumpyTarget:
    """A target without torch: outputs of a block, no gradients and no state."""

    name, dialect, precision = "numpy", Dialect.ANOMALIB, "ieee"
    not_claimed = frozenset({"gradient", "state"})

    def build(self, spec, subnet, dtype, device):
        return Module(PlainBlock, name="inner").build(spec, subnet, dtype, device)

    def load(self, block, arrays):
        block.load_state_dict(arrays)

    def run(self, block, x, c, rev, jac=True):
        with torch.no_grad():
            (y,), logdet = block((x,), list(c), rev=rev)
        return torch.from_numpy(y.numpy()), torch.from_numpy(logdet.numpy())


def test_gradients_that_are_not_claimed_are_not_judged(golden):
    code, said = run(some(golden, 40), NumpyTarget())

    assert code == 0, said
    assert "Gradients are not claimed, and not judged." in said


@pytest.mark.parametrize("name", ["freia", "anomalib"])
def test_public_blocks_hold_but_for_the_empty_batch(golden, name):
    pytest.importorskip("FrEIA")
    from importlib import import_module

    target = Module(import_module(f"flowref.targets.{name}").AllInOneBlock, name=name)
    empty = tuple(v for v in golden.vectors if "batch-0" in v.entry["flags"])
    own = Golden(golden.folder, (*empty, *golden.vectors[5::16]))

    assert all(len(judge(v, target, "cpu").failures) == 2 for v in empty if v.entry["file"] == "anomalib.safetensors")
    assert run(own, target, "batch-0")[0] == 0
