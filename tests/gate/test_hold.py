"""Judging one item: what is drawn, found, made smaller, and what counts as evidence."""

import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowref.cases import stream
from flowref.fast import AllInOneBlock
from flowref.faults import corpus
from flowref.gate import hold
from flowref.gate.canary import Canary
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import Item, items
from flowref.laws import registry
from flowref.laws.run import Run

PIXELS, BATCHES = (1025, 19 * 19, 33 * 34, 7 * 6 * 7), (35, 130)
OUTPUT = registry.find("reference.output-equals-reference")[0]


class Wide(AllInOneBlock):
    """Wrong past 256 pixels only."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (y,), logdet = super().forward(*args, **kwargs)
        return (y + (y[0, 0].numel() > 256),), logdet


class Large(AllInOneBlock):
    """Wrong on sizes that the search draws and no explicit row has."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (y,), logdet = super().forward(*args, **kwargs)
        return (y + (y[:1, 0].numel() in PIXELS or len(y) in BATCHES),), logdet


class Halfless(AllInOneBlock):
    """Offers no float16."""

    not_claimed = frozenset({"float16"})


class Taking(AllInOneBlock):
    """Loads whatever comes."""

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Untidy(AllInOneBlock):
    """Leaves the process in another state than it found it in."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return super().forward(*args, **kwargs)


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Any]:
    """`judge(block, law, ...)` -> record."""
    before = signal.getsignal(signal.SIGINT)

    def run(block: type, law: registry.Law = OUTPUT, precision: str = "float64", **options: Any) -> dict[str, Any]:
        name = f"{Path(__file__)}:{block.__name__}"
        settings = Settings((name,), **{"profile": "smoke", "report": tmp_path, **options})
        return Judge(settings).judge(Item(name, law, law.directions[0], precision, "cpu"))

    yield run
    signal.signal(signal.SIGINT, before)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def test_a_row_that_fails_is_made_smaller(judge: Any) -> None:
    record = judge(Wide)

    failure = record["failure"]
    assert (record["status"], failure["reference"]["holds"]) == ("broken", True)
    assert failure["recipe"].startswith("Recipe(B=1, C=2, S=(")
    assert failure["drawn"] is not None
    assert Path(failure["file"]).exists()


def test_without_shrinking_it_is_reported_as_drawn(judge: Any) -> None:
    failure = judge(Wide, shrink=False)["failure"]

    assert failure["drawn"] is None


def test_the_search_finds_what_no_row_has(judge: Any) -> None:
    failure = judge(Large, replace(OUTPUT, edges=()), profile="ci")["failure"]

    assert not [row for row in stream.rows("ci") if row.B in BATCHES or math.prod(row.S) in PIXELS]
    assert failure["recipe"].startswith(
        ("Recipe(C=2, S=(", "Recipe(B=1, C=2, S=(", "Recipe(B=35, C=2", "Recipe(B=130, C=2")
    )


def test_what_is_not_claimed_is_not_judged(judge: Any) -> None:
    record = judge(Halfless, precision="float16")

    assert (record["status"], record["reason"], record["cases"]) == ("not-claimed", "float16", 0)


def test_a_required_regime_that_was_not_met_is_no_evidence(judge: Any) -> None:
    law = replace(OUTPUT, regimes=("rank-0", "channels-over-128"), fix={"C": 2, "B": 1, "S": ()}, edges=())

    assert judge(AllInOneBlock, law)["status"] == "held"
    record = judge(AllInOneBlock, law, profile="ci")
    assert (record["status"], record["missing"]) == ("unproven", ["channels-over-128"])


def test_undecided_comparisons_are_no_evidence(judge: Any) -> None:
    def undecided(run: Run) -> None:
        run.within(run.case.x, run.case.x, torch.full_like(run.case.x, 1e9), "x", 1.0)

    record = judge(AllInOneBlock, replace(OUTPUT, body=undecided, edges=()))

    assert (record["status"], record["undecided"]) == ("unproven", record["comparisons"])
    assert record["regimes"] == []


def test_where_nothing_is_refused_no_message_is_judged(judge: Any) -> None:
    """That is not held, and no missing evidence: the law about refusals is broken there."""
    laws = registry.find("error.refused-states") + registry.find("error.named-states")
    legal, taking = ([judge(block, law, precision="float32") for law in laws] for block in (AllInOneBlock, Taking))

    assert [record["status"] for record in legal + taking] == ["held", "held", "broken", "not-judged"]
    assert taking[1]["reason"] == "nothing illegal is refused here, so there is no message to look at"


def test_a_law_that_has_no_case_is_no_evidence(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "rows", lambda *args: [])
    monkeypatch.setattr("flowref.gate.hold.search", lambda *args, **kwargs: None)

    assert judge(AllInOneBlock, replace(OUTPUT, edges=()))["status"] == "unproven"


def test_a_mistake_of_a_law_is_no_verdict_on_the_target(judge: Any) -> None:
    def mistaken(run: Run) -> None:
        raise ZeroDivisionError("ours")

    with pytest.raises(Exception, match="ours"):
        judge(AllInOneBlock, replace(OUTPUT, body=mistaken))


def test_an_untidy_target_is_judged_from_the_same_state(judge: Any) -> None:
    judge(Untidy)

    assert judge(AllInOneBlock)["status"] == "held"


def test_the_cases_depend_on_the_law_alone(judge: Any) -> None:
    first, again = judge(AllInOneBlock), judge(Untidy, precision="float32")

    assert first["cases_digest"] == again["cases_digest"]


def test_the_canary_sings() -> None:
    assert Canary().changed() is None


def test_the_canary_sees_what_was_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = Canary()

    monkeypatch.setattr(Run, "near", lambda *args, **kwargs: None)

    assert canary.changed() == "flowref.laws.run.Run.near is not what it was before the target was imported"


def test_the_canary_sees_what_was_patched_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = Canary()

    monkeypatch.setattr(torch.Tensor, "all", lambda *args: torch.tensor(True))

    assert canary.changed() == "reference.output-equals-reference holds on a planted fault"


class Boasting(AllInOneBlock):
    """Names kernels that nobody knows."""

    kernels = staticmethod(lambda device, precision: "warp drive")


class Leaving(AllInOneBlock):
    """Ends the process that asks for its kernels."""

    @staticmethod
    def kernels(device: str, precision: str) -> str:
        raise SystemExit(0)


class Silent(AllInOneBlock):
    """Says nothing of its kernels."""

    kernels = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("block", "precision", "word"),
    [
        (Halfless, "float32", "numba"), (Halfless, "float64", "eager"), (Silent, "float32", "unknown"),
        (Boasting, "float32", "unknown"), (Leaving, "float32", "unknown"),
    ],
)  # fmt: skip
def test_a_record_says_how_kernels_ran_by_the_targets_own_word(
    judge: Any, monkeypatch: pytest.MonkeyPatch, block: type, precision: str, word: str
) -> None:
    monkeypatch.setenv("FLOWREF_FAST", "")

    assert judge(block, precision=precision)["kernels"] == word


@pytest.mark.parametrize("id", ["tf32-switched-on", "determinism-switched-on"])
def test_a_switch_that_an_earlier_pass_has_moved_is_still_seen(id: str) -> None:
    """The law about settings comes late: by then the target has run many times in the process."""
    name = f"{corpus.build(corpus.find(id)).__module__}:PlainBlock"
    settings = Settings((name,), profile="smoke", device="cpu", precisions=("float32",), shrink=False)
    judge = Judge(settings)

    try:
        statuses = [
            judge.judge(item)["status"]
            for law in ("clamp.odd", "purity.settings-stay")
            for item in items(settings, registry.find(law))[:1]
        ]
    finally:
        hold._settle()

    assert statuses == ["held", "broken"]


def test_what_an_item_leaves_of_its_share_is_had_by_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(hold.time, "monotonic", lambda: now[0])
    clock = hold.Clock(100.0, 10)
    shares = []
    for used in (2.0, 2.0, None, 0.0, 60.0, None, None, None, None, None, None):  # None: all that it is given
        clock.next()
        shares.append(round(clock.share(), 2))
        now[0] += shares[-1] if used is None else used

    # Ten each; what the first two left, in parts; less after one that took too long, and a quarter where none is left.
    assert shares == [10, 10.89, 12, 12, 14, 4.8, 4.8, 4.8, 4.8, 4.8, 2.5]


@pytest.mark.parametrize("dialect", ("anomalib", "freia-main", "documented"))
def test_no_required_regime_is_left_to_what_a_search_draws(dialect: str) -> None:
    """But one that is illegal in the dialect. Some laws ask for fewer rows than there are, and rows go by rank."""
    few = [law for law in registry.all() if law.regimes and law.rows and not law.own and not law.parts]
    more = 0
    for law in few:
        rows = stream.rows("ci", dialect, law.fix)
        found = hold.enough(rows, law)
        met = frozenset[str]().union(*(hold.made(row).regimes for row in found))

        assert not set(law.regimes) - met - ({"alpha-0"} if dialect == "freia-main" else set()), law.id
        assert found[: law.rows] == rows[: law.rows]
        more += len(found) > law.rows
    assert more >= 5
