"""A block whose products are rounded to TF32 is broken, unless it says so."""

import pytest

from flowref.faults import corpus
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import items
from flowref.laws import registry

LAWS = (
    "reference", "inverse", "logdet.equals-jacobian", "gradient.by-input", "batch.order-of-samples-does-not-matter",
    "coupling.passive-passes-through",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stated", ["ieee", "tf32"])
def test_products_in_tf32(stated: str) -> None:
    block = corpus.build(corpus.find("mixing-in-tf32"))
    block.precision = stated  # type: ignore[assignment]
    settings = Settings(
        targets=(f"{block.__module__}:PlainBlock",),
        profile="smoke",
        device="cpu",
        precisions=("float32",),
        shrink=False,
    )
    judge = Judge(settings)
    laws = [law for name in LAWS for law in registry.find(name)]
    statuses: dict[str, str] = {}
    for item in items(settings, laws):
        status = str(judge.judge(item)["status"])
        statuses[item.law.id] = status if statuses.get(item.law.id, "held") == "held" else statuses[item.law.id]
    if stated == "tf32":
        assert set(statuses.values()) == {"held"}, statuses
    else:
        assert statuses["reference.output-equals-reference"] == "broken"
