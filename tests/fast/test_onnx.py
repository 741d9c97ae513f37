"""The block in ONNX: exported in eval mode in either direction, run by onnxruntime, held by the suite's laws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
pytest.importorskip("onnxruntime")

import onnxruntime

from flowref.cases import Recipe
from flowref.fast import AllInOneBlock
from flowref.laws import registry
from flowref.laws.run import Run
from flowref.targets import Module

LAWS = ("reference.output-equals-reference", "logdet.equals-reference")
KINDS = {
    "plain": {"conditions": (2,)},
    "gin": {"gin": True, "reverse_permutation": True},
    "soft": {"soft": True, "affine": "SIGMOID", "reverse_permutation": True},
    "reflections": {"soft": True, "reflections": 3, "affine": "EXP", "conditions": (2, 1)},
}


class Directed(nn.Module):
    """One direction of a block, on tensors: what is exported."""

    def __init__(self, block, rev):
        super().__init__()
        self.block, self.rev = block, rev

    def forward(self, x, c):
        (y,), logdet = self.block((x,), c, rev=self.rev)
        return y, logdet


class Onnx(Module):
    """The block behind onnxruntime; exported at one batch size and run at another, where `dynamic`."""

    def __init__(self, dynamic):
        super().__init__(AllInOneBlock)
        self.dynamic = dynamic

    def build(self, *given):
        block = super().build(*given)
        block.subnet.forward = block.subnet.answer  # which records nothing
        return block.eval()

    def call(self, block, x, c, rev, jac=True):
        asked, words = (x[0], c), {}
        if self.dynamic:
            asked, batch = (torch.cat((x[0], x[0])), [torch.cat((v, v)) for v in c]), torch.export.Dim("batch")
            words["dynamic_shapes"] = ({0: batch}, [{0: batch} for _ in c])
        program = torch.onnx.export(Directed(block, rev).eval(), asked, dynamo=True, verbose=False, **words)
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        names = [value.name for value in session.get_inputs()]
        y, logdet = session.run(None, {name: v.numpy() for name, v in zip(names, (x[0], *c), strict=True)})
        return (torch.from_numpy(y),), torch.from_numpy(logdet)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("S", [(), (3, 2)], ids=("vector", "image"))
@pytest.mark.parametrize("direction", ("forward", "reverse"))
@pytest.mark.slow
def test_onnxruntime_stays_within_the_bounds(kind, S, direction):
    case = Recipe(**{"B": 3, "C": 6, "S": S, "subnet": "network", **KINDS[kind]}).case()
    run = Run(case, Onnx(dynamic=(direction == "forward") == bool(S)), "float32", direction)
    held = [law.id for law in registry.all() if law.id in LAWS and law.body(run) is None]
    assert held == list(LAWS)
    assert run.meter.comparisons > run.meter.undecided
