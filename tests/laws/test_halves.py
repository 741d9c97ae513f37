"""Half precisions: cases are narrowed to what they can decide, and what a law fixes stays fixed."""

import pytest
import torch

from flowref.cases import Recipe
from flowref.fast import AllInOneBlock
from flowref.faults import matrix
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import items
from flowref.laws import registry
from flowref.laws.run import LawBroken, Run, hold_case
from flowref.reference import ReferenceBlock
from flowref.targets import Module

JUDGED = [law for law in registry.asked() if law.half]


@pytest.mark.parametrize("law", JUDGED, ids=lambda law: law.id)
def test_a_fixed_value_that_a_half_precision_can_decide_stays(law):
    fixed = law.fixed("bfloat16")

    for name, value in law.fix.items():
        wanted = value if isinstance(value, tuple) else (value,)
        allowed = registry.HALF.get(name, wanted)
        got = fixed[name] if isinstance(fixed[name], tuple) else (fixed[name],)
        if isinstance(allowed, tuple) and set(wanted) & set(allowed):
            assert set(got) <= set(wanted), name


@pytest.mark.parametrize("precision", registry.HALVES)
def test_passive_channels_pass_through_the_fast_block(precision):
    """The law holds only where σ = 1, which a half precision once drew."""
    settings = Settings(
        ("flowref.fast:AllInOneBlock",), profile="smoke", device="cpu", precisions=(precision,), shrink=False
    )
    judge = Judge(settings)

    planned = items(settings, registry.find("coupling.passive-passes-through"))

    assert [judge.judge(item)["status"] for item in planned] == ["held"] * 2


def test_a_variant_that_adds_in_half_precision_does_not_claim_it():
    pairs = matrix.tasks("gradient.by-input", kinds=("variants",), precisions=("bfloat16", "float32"))

    claimed = {pair.id: pair.precisions for pair in pairs}

    assert claimed["plain"] == ("bfloat16", "float32")
    assert claimed["channels-in-chunks"] == claimed["sum-of-products-for-matmul"] == ("float32",)


@pytest.mark.parametrize("block", (AllInOneBlock, ReferenceBlock))
def test_an_answer_beyond_float16_need_not_be_finite(block):
    """σ is tiny, and the way back divides by it: 2.4e7 comes out, of which float16 makes infinity."""
    (law,) = registry.find("dtype.answers-in-float16")
    case, target = Recipe(B=1, g=0.25, scale="wide", bits=8, seed=30).case(), Module(block, dialect="anomalib")
    y = Run(case, target, "float16", "reverse").answer.y

    hold_case(law, case, target, "float16", "reverse")

    assert y.isinf().sum() == 1


class Nothing(AllInOneBlock):
    """Answers NaN."""

    def forward(self, *given, **flags):
        (y,), logdet = super().forward(*given, **flags)
        return (y * torch.nan,), logdet


def test_an_answer_within_float16_must_be_finite():
    (law,) = registry.find("dtype.answers-in-float16")
    case = Recipe(B=1, g=0.25, scale="wide", bits=8, seed=30).case()

    with pytest.raises(LawBroken, match="whether the output is finite"):
        hold_case(law, case, Module(Nothing, dialect="anomalib"), "float16", "reverse")
