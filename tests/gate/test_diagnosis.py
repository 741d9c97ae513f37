"""Where a broken law leads: the step of a planted fault, one finding for one cause."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowref.cases import Recipe, save, stream
from flowref.faults import corpus, ports, variants
from flowref.gate.diagnosis import NEUTRAL, Ask, diagnose, places
from flowref.gate.findings import EXPLAINED, findings
from flowref.gate.hold import Judge
from flowref.gate.options import PRECISIONS, Settings, Unusable
from flowref.gate.readings import WIDEST, reading
from flowref.gate.replay import suits
from flowref.gate.trial import Counted, Trial
from flowref.laws import registry
from flowref.reference import ReferenceBlock
from flowref.targets import Module

Command = Callable[..., Any]
FULL = Recipe(B=3, C=5, S=(2, 3), conditions=(2,), soft=True, reverse_permutation=True, subnet="network")


def ask(fault: str, recipe: Recipe, precision: str = "float32") -> Ask:
    return Ask(recipe.case(), Module(corpus.build(corpus.find(fault)), dialect=recipe.dialect), precision)


def law(name: str) -> registry.Law:
    return registry.find(name)[0]


LARGE = {"C": 67, "S": (7, 19), "conditions": (), "reverse_permutation": False}

# Fault, law that it breaks, direction, what is changed of FULL, step.
LEADS: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("reverse-scales-up-again", "inverse.forward-undoes-reverse", "both", {}, "coupling"),
    ("reverse-ignores-conditions", "inverse.reverse-undoes-forward", "both", {}, "coupling"),
    ("halves-interleaved", "reference.output-equals-reference", "forward", {}, "coupling"),
    ("clamp-missing", "gradient.by-input", "reverse", {}, "clamp"),
    ("clamp-one-sided", "reference.output-equals-reference", "forward", {}, "clamp"),
    ("conditions-leak-into-the-passive-part", "reference.output-equals-reference", "forward", {}, "coupling"),
    ("clamp-does-not-divide-by-alpha", "logdet.equals-reference", "forward", {"dialect": "freia-main"}, "clamp"),
    ("gin-mean-over-channels-only", "gin.mean-is-per-sample", "forward", {"gin": True}, "GIN mean"),
    ("gin-mean-over-channels-only", "gradient.by-input", "reverse", {"gin": True}, "GIN mean"),
    ("offset-after-mixing", "reference.output-equals-reference", "forward", {}, "global affine"),
    ("scale-enters-twice", "gradient.by-subnet", "reverse", {}, "global affine"),
    ("reverse-mixes-forward", "inverse.reverse-undoes-forward", "both", {}, "W"),
    ("w-sums-64-channels-at-pixels-past-64", "reference.large-sizes-equal-reference", "forward", LARGE, "W"),
    ("w-sums-64-channels-at-pixels-past-64", "reference.large-sizes-equal-reference", "reverse", LARGE, "W"),
    ("reflections-on-the-other-side-of-w0", "gradient.by-input", "forward", {"reflections": 3}, "W"),
    ("logdet-forgets-coupling", "logdet.equals-jacobian", "forward", {}, "log-det"),
    ("logdet-keeps-an-axis", "logdet.one-value-a-sample", "forward", {}, "log-det"),
    ("reverse-logdet-keeps-sign", "inverse.log-dets-cancel", "both", {}, "log-det"),
    ("conditions-detached", "gradient.by-conditions", "forward", {}, "gradient"),
    ("second-pass-clamps-wider", "inverse.reverse-undoes-forward", "both", {}, "state"),
    ("rank-3-flattened", "shape.answers-in-shape", "forward", {"S": (2, 1, 2)}, "answer"),
    ("activation-is-a-local-function", "state.pickle-works", "both", {}, "state"),
    ("shapes-rounded", "error.refused-arguments", "both", {}, "refusals"),
    (
        "shift-forgotten-behind-equal-shares-of-threads",
        "reference.several-threads-equal-reference",
        "reverse",
        {"B": 4},
        "threads",
    ),
    ("nan-spreads-over-the-batch", "batch.nan-stays-in-its-sample", "forward", {}, "batch"),
]


@pytest.mark.parametrize(("fault", "name", "direction", "changed", "step"), LEADS)
def test_a_fault_leads_to_its_step(fault: str, name: str, direction: str, changed: dict[str, Any], step: str) -> None:
    assert diagnose(ask(fault, replace(FULL, **changed)), law(name), direction).step == step


# Port, what is changed of FULL, what is said of it.
READ: list[tuple[str, dict[str, Any], str]] = [
    ("every-type-softplus", {"affine": "EXP"}, "global affine (forward: output is out first, and σ, the length of"),
    ("every-type-exp", {"affine": "SIGMOID", "g": 2.0}, "global affine ("),
    ("scale-after-mixing", {}, "global affine (forward: output is out first, and W σ, what unit vectors become, is"),
    ("no-global-offset", {}, "global affine (forward: output is out first, and what the offset becomes"),
    ("gin-keeps-the-scale", {"gin": True}, "global affine ("),
    ("gin-ignored", {"gin": True}, "GIN mean (forward: output is out first, and l less its mean"),
    ("w-transposed", {}, "W ("),
    ("w-flips-channels", {"permutation": "identity"}, "W ("),
    ("reflections-of-unit-vectors", {"reflections": 2}, "W (forward: "),
    ("reverse-permutation-left-out", {}, "W ("),
    ("parts-come-out-swapped", {"C": 6}, "coupling (forward: output is out first, and the order of channels at W = I"),
    ("halves-of-the-answer-swapped", {}, "coupling ("),
    ("answer-not-scaled", {}, "coupling ("),
    ("shift-not-scaled", {}, "coupling (forward: output is out first, and t, the output at x = 0"),
    ("shift-before-scale", {}, "coupling (forward: output is out first, and t beside exp(l)"),
    ("clamp-is-atan", {}, "clamp (forward: output is out first, and l, in the factor of the active channels"),
    ("alpha-inside", {}, "clamp ("),
    ("exp-refused", {"affine": "EXP"}, "global affine (forward: an answer is out first, and not with another type"),
    ("reflections-ignored", {"reflections": 2}, "W (forward: an answer is out first, and not with a hard W alone)"),
    ("first-condition-alone", {"conditions": (1, 2)}, "coupling (forward: an answer is out first, and not with no "),
    ("images-alone", {"S": (1, 2, 2)}, "answer (forward: an answer is out first)"),
]


@pytest.mark.parametrize(("port", "changed", "said"), READ)
def test_a_step_is_read_from_outputs(port: str, changed: dict[str, Any], said: str) -> None:
    seen = Ask(replace(FULL, **changed).case(), Module(ports.build(ports.find(port))), "float32")
    assert str(diagnose(seen, law("reference.output-equals-reference"), "forward")).startswith(said)


@pytest.mark.parametrize("dialect", ["anomalib", "freia-main", "documented"])
def test_what_is_read_from_a_correct_block_is_the_references(dialect: str) -> None:
    makes = [variant.make() for variant in variants.VARIANTS]
    rows = [row for row in stream.rows("smoke", dialect) if row.C <= WIDEST]
    for turn, recipe in enumerate(rows):
        seen = Ask(recipe.case(), Module(makes[turn % len(makes)], dialect=dialect), ("float32", "float64")[turn % 2])
        for direction in ("forward", "reverse"):
            assert reading(seen.case, seen.target, seen.precision, direction, "cpu", seen.guard) is None


def test_no_answer_at_an_edge_alone_stays_the_edges() -> None:
    seen = ask("one-channel-raises", Recipe(C=1, affine="EXP"))
    assert diagnose(seen, law("shape.answers-at-one-channel"), "forward").step == "answer"


def test_a_half_precision_is_looked_at_in_float32_first() -> None:
    """In bfloat16 the output of this case decides nothing, so the log-det would be blamed."""
    recipe = Recipe(B=1, C=2, g=0.25, subnet="constant", bits=8, dialect="freia-main")
    found = diagnose(
        ask("clamp-does-not-divide-by-alpha", recipe, "bfloat16"), law("dtype.bfloat16-rounds-once"), "reverse"
    )
    assert found.step == "clamp"


def test_no_place_is_looked_at_in_a_half_precision_that_does_not_hold_the_input() -> None:
    """It would be rounded for the target alone, so that what the subnet is given would be blamed, of any block."""
    recipe, exhaustive = Recipe(B=1, C=2, subnet="constant"), law("clamp.exhaustive-half")
    correct = Ask(recipe.case(), Module(ReferenceBlock), "bfloat16")

    assert not correct.fits and replace(correct, case=replace(recipe, bits=8).case()).fits
    assert any(place.out for place in places(correct, "forward"))
    assert diagnose(correct, exhaustive, "forward").step == "clamp"


def test_what_only_float64_sees_is_its_own_step() -> None:
    seen = ask("float64-input-cut-to-float32", Recipe(bits=53), "float64")
    assert diagnose(seen, law("dtype.float64-keeps-every-bit"), "forward").step == "dtype"
    seen = ask("clamp-missing", Recipe(), "float64")
    assert diagnose(seen, law("clamp.bounded-by-alpha"), "forward").step == "clamp"


@pytest.mark.parametrize("recipe", [FULL, Recipe(C=4, soft=True, reflections=3, gin=True), Recipe(subnet="activation")])
def test_each_step_can_be_made_neutral(recipe: Recipe) -> None:
    """The neutral case is legal, differs, and a correct block is within its bounds on it."""
    case = recipe.case()
    for step, (_, change) in NEUTRAL.items():
        changed = change(case)
        assert (changed is None) == (step == "GIN mean" and not recipe.gin)
        if changed is not None:
            assert changed.id != case.id
            for direction in ("forward", "reverse"):
                seen = Ask(changed, Module(ReferenceBlock), "float64")
                assert [str(place) for place in places(seen, direction) if place.out] == []


def test_correct_blocks_are_out_nowhere() -> None:
    for variant in variants.VARIANTS[:6]:
        for direction in ("forward", "reverse"):
            seen = Ask(FULL.case(), Module(variant.make()), "float32")
            assert [str(place) for place in places(seen, direction) if place.out] == []


def record(name: str, step: str | None, place: bool = True, **more: Any) -> dict[str, Any]:
    leads = (
        None
        if step is None
        else {"step": step, "edge": more.pop("edge", None), "first": {} if not place else {"place": "forward: output"}}
    )
    found = {"law": name, "target": "t", "status": "broken", "precision": "float32", "failure": {"leads": leads}}
    return found | more


def test_laws_that_lead_to_one_step_are_one_finding() -> None:
    records = [
        record("reference.output-equals-reference", "clamp"),
        record("clamp.odd", "clamp", place=False),
        record("clamp.odd", "dtype", precision="float64"),
        record("inverse.reverse-undoes-forward", "dtype", precision="float64"),
        record("dtype.float64-keeps-every-bit", "dtype", precision="float64"),
        record("gradient.by-input", "gradient"),
        record("gradient.by-subnet", "gradient"),
        record("inverse.log-dets-cancel", "clamp", status="held"),
        record("purity.inputs-keep-their-bits", None),
    ]
    assert [(one.step, one.laws) for one in findings(records)] == [
        ("clamp", ["clamp.odd", "reference.output-equals-reference", "inverse.reverse-undoes-forward"]),
        ("gradient", ["gradient.by-input", "gradient.by-subnet"]),
        ("purity.inputs-keep-their-bits", ["purity.inputs-keep-their-bits"]),
        ("dtype", ["dtype.float64-keeps-every-bit"]),
    ]


def test_what_shows_in_no_pass_is_a_finding_of_its_law() -> None:
    records = [
        record("state.pickle-works", "state", place=False),
        record("state.pickle-works", "state", place=False, precision="float64"),
        record("state.deepcopy-works", "state", place=False),
        record("random.construction-moves-torchs-generator-alone", "random", place=False),
        record("random.manual-seed-reproduces-a-block", "random", place=False),
        record("state.float64-and-back-changes-nothing", "state", place=False),
        record("inverse.reverse-undoes-forward", "state"),
        record("inverse.log-dets-cancel", "state"),
        record("state.pickle-works", "state", place=False, target="other"),
    ]
    assert [(one.target, one.laws) for one in findings(records)] == [
        ("t", ["inverse.reverse-undoes-forward", "inverse.log-dets-cancel"]),
        ("t", ["state.pickle-works"]),
        ("t", ["state.deepcopy-works"]),
        ("t", ["state.float64-and-back-changes-nothing"]),
        ("other", ["state.pickle-works"]),
        ("t", ["random.manual-seed-reproduces-a-block", "random.construction-moves-torchs-generator-alone"]),
    ]


def test_no_answer_is_a_finding_an_edge_unless_there_is_none_anywhere() -> None:
    edges = [
        record("shape.answers-at-batch-0", "answer", edge="batch-0"),
        record("shape.answers-at-one-channel", "answer", edge="channels-1"),
        record("dtype.answers-in-bfloat16", "answer", precision="bfloat16"),
        record("dtype.answers-in-float16", "answer", precision="float16"),
    ]
    assert [one.laws for one in findings(edges)] == [
        ["shape.answers-at-batch-0"],
        ["shape.answers-at-one-channel"],
        ["dtype.answers-in-bfloat16", "dtype.answers-in-float16"],
    ]
    assert len(findings([*edges, record("shape.answers-in-shape", "answer")])) == 1


def test_what_does_not_come_back_is_one_finding_and_the_law_about_unwritten_memory_says_most() -> None:
    records = [
        record("logdet.equals-reference", "nondeterminism", place=False),
        record("clamp.odd", "nondeterminism", place=False),
        record("clamp.odd", "log-det"),  # its other item happened to come back
        record("layout.every-element-is-written", "layout", place=False),
        record("state.pickle-works", "nondeterminism", place=False),
    ]
    assert [one.laws for one in findings(records)] == [
        ["layout.every-element-is-written", "logdet.equals-reference", "clamp.odd", "state.pickle-works"]
    ]
    assert [one.laws for one in findings([records[2], records[3]])] == [
        ["clamp.odd"],
        ["layout.every-element-is-written"],
    ]


def test_a_failure_that_does_not_come_back_says_so(check: Callable[..., Any]) -> None:
    ended = check(
        """
        calls = 0

        class Block(Block):
            def forward(self, *a, **k):
                global calls
                calls += 1
                (y,), j = super().forward(*a, **k)
                return (y + (calls % 3 == 0),), j
        """,
        what=("--law", "reference.output-equals-reference", "--law", "reference.inference-equals-reference"),
    )
    assert (ended.code, ended.last[:35]) == (1, "Broken: 1 finding (nondeterminism),"), ended.out
    assert "look at: nondeterminism (tried again, the law holds on this very case" in ended.out


BLOCK = """
import torch
from flowref.fast import AllInOneBlock

class Block(AllInOneBlock):
    def forward(self, x, c=(), rev=False, jac=True):
        (y,), logdet = super().forward(x, c, rev, jac)
        return (y + 0.25 * bool(rev),), logdet
"""


def test_replay_shows_where_a_target_first_leaves_its_bound(tmp_path: Path, command: Command) -> None:
    (tmp_path / "mine.py").write_text(BLOCK)
    file = str(save(Recipe(C=3, S=(2,)).case(), tmp_path).name)

    ended = command("replay", file, "mine.py:Block")
    assert ended.code == 1
    first = next(line for line in ended.out.splitlines() if "→" in line)
    assert first.startswith("→ reverse: output ")
    assert ended.last.startswith("Look at: coupling (reverse: output is out first")
    assert "forward: output  " in ended.out
    assert "Recipe(C=3, S=(2,)).case()" in ended.out

    ended = command("replay", file, "--precision", "float64")
    assert (ended.code, ended.last) == (0, "flowref.fast:AllInOneBlock is within its bound at every place, in float64.")


def test_replay_holds_the_law_where_no_pass_of_the_case_shows_what_is_wrong(tmp_path: Path, command: Command) -> None:
    (tmp_path / "mine.py").write_text(BLOCK.replace("bool(rev)", "bool(len(y) > 5)"))
    file = str(save(Recipe(B=2, C=3, S=(2,), alpha=1.0).case(), tmp_path).name)

    assert command("replay", file, "mine.py:Block").code == 0
    held = command("replay", file, "mine.py:Block", "--law", "inverse.reverse-undoes-forward")
    assert (held.code, held.last[:14]) == (0, "  both: held, ")
    (tmp_path / "mine.py").write_text(BLOCK.replace("y + 0.25 * bool(rev)", "y * 2 if len(y) > 5 else y"))
    broken = command("replay", file, "mine.py:Block", "--law", "logdet.equals-jacobian")
    assert (broken.code, "\n  reverse: broken:" in broken.out) == (1, True), broken.out
    assert re.search(r"    breaks in \d+ of \d+ cases", broken.last), broken.out


def test_replay_holds_the_law_alone_where_a_precision_does_not_hold_the_input(tmp_path: Path, command: Command) -> None:
    """Elsewhere the input would be rounded for the target alone, and every block be wrong."""
    short = str(save(stream.narrow({}, "anomalib", law("clamp.exhaustive-half").fix).case(), tmp_path).name)
    long = str(save(Recipe(bits=53).case(), tmp_path).name)

    for file, precision in ((short, "bfloat16"), (long, "float32")):
        refused = command("replay", file, "--precision", precision)
        assert (refused.code, "has longer numbers. Use --precision float64" in refused.out) == (4, True)
    assert command("replay", long, "--precision", "float64").code == 0
    held = command("replay", short, "--precision", "bfloat16", "--law", "clamp.exhaustive-half")
    assert held.code == 0 and "the law alone is held" in held.out and "→" not in held.out


def test_a_law_suits_every_case_that_the_gate_holds_it_to() -> None:
    judge, block = Judge(Settings()), Module(ReferenceBlock)
    seen = set[tuple[str, str | None]]()
    for one in registry.all():
        for precision in PRECISIONS:
            if not one.is_judged_in(precision, [precision]):
                continue
            device = one.devices[0]
            trial = Trial(one, Counted(block), one.directions[0], precision, device, judge.watch, block, part=0)
            for kind in one.kinds:
                for recipe in judge._rows(trial, one, kind):
                    case = recipe.case()
                    if case.edge == kind:
                        suits(one, Ask(case, block, precision, device))
                        seen.add((one.id, kind))
    assert seen >= {(one.id, kind) for one in registry.all() for kind in one.kinds}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_law_suits_every_case_that_a_search_draws_for_it(data: st.DataObject) -> None:
    one = data.draw(st.sampled_from([one for one in registry.all() if None in one.kinds and not one.own]))
    precision = data.draw(st.sampled_from([p for p in PRECISIONS if one.is_judged_in(p, [p])]))
    case = data.draw(stream.recipes("anomalib", one.fixed(precision))).case()
    suits(one, Ask(case, Module(ReferenceBlock), precision, one.devices[0]))


@pytest.mark.parametrize(
    "name, said",
    [
        ("logdet.equals-jacobian", "judged on cases of C·N up to 24, not 36. Leave it out."),
        ("clamp.odd", "judged on cases of affine='EXP', not 'SOFTPLUS'. Leave it out."),
        ("clamp.alpha-0-switches-scaling-off", "not judged on a case at no edge: need alpha-0. Leave it out."),
        ("dtype.float64-keeps-every-bit", "not judged in float32: need float64. Use --precision float64."),
        ("device.replays-from-a-graph", "not judged on cpu. Use --device cuda."),
        ("compile.compiled-equals-eager", "does not claim compile. Leave it out."),
    ],
)
def test_a_law_is_not_held_to_a_case_that_the_gate_would_not_hold_it_to(name: str, said: str) -> None:
    """Its formula need not be true there: logdet(−k) = −logdet(k) is not where σ ≠ 1."""
    with pytest.raises(Unusable, match=re.escape(said)):
        suits(
            law(name),
            Ask(Recipe(S=(3, 3)).case(), Module(ReferenceBlock, not_claimed=frozenset({"compile"})), "float32"),
        )


def test_replay_refuses_what_it_cannot_use(tmp_path: Path, command: Command) -> None:
    file = str(save(Recipe(C=3).case(), tmp_path).name)
    other = str(save(replace(Recipe(C=3, seed=5).case(), recipe=None), tmp_path).name)
    for words, said in (
        (["none.json"], "none.json"),
        ([file, "mine.py:Block"], "there is no file mine.py"),
        ([file, "--dialect", "documented"], "the case is one of anomalib"),
        ([file, "--precision", "float8"], "need one of float32"),
        ([file, "--device", "cuda:1"], "CUDA devices. Use cpu."),
        ([file, "--law", "clamp"], "is a family: need one law's id. Give for example clamp."),
        ([file, "--law", "clamp.od"], "Did you mean clamp.odd?"),
        ([other, "--law", "clamp.exhaustive-half"], "--law='clamp.exhaustive-half' can't be held to this case: "),
        ([str(tmp_path)], "it is a folder"),
    ):
        ended = command("replay", *words)
        assert ended.code == 4
        assert said in ended.out
        assert "Traceback" not in ended.out


def test_what_is_not_refused_is_not_named_either_and_is_one_finding() -> None:
    ids = ["error.refused-inputs", "error.named-inputs", "error.refused-conditions", "error.named-conditions"]
    records = [record(name, "refusals", place=False) for name in ids]

    assert [sorted(found.laws) for found in findings(records)] == [sorted(ids)]
    assert len(findings(records[1:2])) == 1


def test_refusals_of_different_things_are_two_findings() -> None:
    records = [record(name, "refusals", place=False) for name in ("error.refused-arguments", "error.named-states")]

    assert len(findings(records)) == 2


def test_a_law_that_another_explains_belongs_to_its_finding_in_whatever_step() -> None:
    records = [
        record("gradient.runs-through-a-kept-answer", "gradient"),
        record("purity.answer-keeps-its-bits", "purity", place=False),
        record("compile.mapped-over-samples", "compile", place=False),
    ]

    assert [found.laws for found in findings(records)] == [
        ["purity.answer-keeps-its-bits", "gradient.runs-through-a-kept-answer"],
        ["compile.mapped-over-samples"],
    ]
    assert len(findings(records[:1] + records[2:])) == 2


def test_explanations_are_laws_and_end() -> None:
    known = {law.id for law in registry.asked()}

    for law, why in EXPLAINED.items():
        assert {law, *why} <= known
        held = [law]
        while held[-1] in EXPLAINED:
            held.append(EXPLAINED[held[-1]][0])
            assert len(held) == len(set(held))
