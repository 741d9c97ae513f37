"""`flowref bench`: what it measures, whom it refuses, what it prints. Nothing here depends on how long a pass takes."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from flowref import cli
from flowref.bench import command, contenders, measure, place, plot, report, results, timing
from flowref.bench.command import Asked
from flowref.bench.contenders import BESIDE, Contender
from flowref.bench.flow import Copy, Flow
from flowref.bench.presets import KINDS, PASSES, PRESETS, USUAL, Size
from flowref.bench.results import Cell, Run
from flowref.gate.evidence import Evidence
from flowref.gate.options import Unusable
from flowref.gate.verdict import Verdict

SMALL = Asked(shapes="6@4,4x3x2@2", kinds="hard", beside="eager", rounds=2, seconds=0.0, unverified=True)
RAISES = """
from flowref.fast import AllInOneBlock

class Block(AllInOneBlock):
    def forward(self, *given, **named):
        raise ArithmeticError("no figure\\nand more")

class Wrong(AllInOneBlock):
    def forward(self, x, c=(), rev=False, jac=True):
        (y,), logdet = super().forward(x, c, rev, jac)
        return (y + 1,), logdet
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "load", lambda: 0.0)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A file of blocks that are not right."""
    file = tmp_path / "mine.py"
    file.write_text(RAISES)
    return str(file)


def ran(asked: Asked, width: int = 80) -> tuple[int, str]:
    out = StringIO()
    code = command.run(asked, Console(file=out, width=width, no_color=True, emoji=False))
    return code, out.getvalue()


def judge(monkeypatch: pytest.MonkeyPatch, verdicts: Callable[[Contender], Verdict]) -> list[Contender]:
    """In place of the gate; who was judged."""
    judged: list[Contender] = []

    def smoke(one: Contender, device: str, show: Any) -> tuple[Evidence, Verdict]:
        judged.append(one)
        return Evidence(), verdicts(one)

    monkeypatch.setattr(contenders, "smoke", smoke)
    return judged


# ---- what is asked for


@pytest.mark.parametrize(
    ("changed", "given", "told"),
    [
        ({"preset": "fastflwo"}, "fastflwo", "Did you mean fastflow?"),
        ({"kinds": "hard,sof"}, "sof", "Did you mean soft?"),
        ({"passes": "forwards"}, "forwards", "Did you mean forward?"),
        ({"beside": "anomaly"}, "anomaly", "Did you mean anomalib?"),
        ({"shapes": "48x32"}, "48x32", "Give for example 48x32x32@8"),
        ({"shapes": "2x2x2x2x2@1"}, "2x2x2x2x2@1", "at most 3 axes of pixels"),
        ({"shapes": "0@4"}, "0@4", "CHANNELS"),
        ({"device": "gpu"}, "gpu", "need one of auto, cpu, cuda"),
        ({"plot": "out.pdf"}, "out.pdf", ".png or .svg"),
        ({"json": "none/out.json"}, "none/out.json", "Give one in a folder that is there"),
        ({"plot": "none/out.svg"}, "none/out.svg", "Give one in a folder that is there"),
        ({"compare": "none.json"}, "none.json", "Give a file that --json wrote"),
        ({"targets": ("flowref.fast:AllInOneBlok",)}, "AllInOneBlok", "Did you mean"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_used_is_named_with_what_is_allowed(changed: dict[str, Any], given: str, told: str) -> None:
    with pytest.raises(Unusable) as error:
        ran(replace(SMALL, **changed))

    assert given in str(error.value) and told in str(error.value)


def test_the_command_hands_over_each_option_and_ends_with_4_where_one_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {name: one.default for name, one in inspect.signature(cli.bench).parameters.items()}
    monkeypatch.setattr(sys, "argv", ["flowref", "bench", "--preset", "fastflwo"])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert taken == {one.name: None if one.name == "targets" else one.default for one in fields(Asked)}
    assert ended.value.code == 4
    assert "--preset='fastflwo' is unknown" in capsys.readouterr().err


def test_a_size_reads_as_it_is_written() -> None:
    assert Size.parse("48x32x16@8") == Size((48, 32, 16), 8)
    assert str(Size.parse("512@256")) == "512@256"
    assert Size.parse("3x2@5").numbers == 30


def test_linear_grows_along_one_axis_at_a_time_over_four_decades() -> None:
    for series, sizes in PRESETS["linear"].series.items():
        numbers = [size.numbers for size in sizes]
        fixed = {"B": lambda s: s.dims, "pixels": lambda s: (s.B, s.dims[0]), "C": lambda s: (s.B, s.dims[1:])}[series]

        assert sorted(numbers) == numbers
        assert numbers[-1] / numbers[0] >= 10**4
        assert len({fixed(size) for size in sizes}) == 1


def test_names_of_contenders_are_known() -> None:
    assert set(USUAL) | {name for preset in PRESETS.values() for name in preset.beside} == set(BESIDE)


# ---- what is measured


def test_each_has_its_turn_in_each_round_behind_a_warm_up() -> None:
    seen: list[str] = []
    jobs = {name: (lambda name=name: timing.Job(lambda: seen.append(name))) for name in "abc"}

    times = timing.interleaved(jobs, 3, 0.0, timing.wall)

    assert "".join(seen) == "aabbcc" + 3 * "abc"
    assert {name: [len(one) for one in rounds] for name, rounds in times.rounds.items()} == dict.fromkeys(
        "abc", [1] * 3
    )


def test_a_turn_lasts_about_as_long_as_it_is_given() -> None:
    """By a clock that a pass moves on by 1."""
    timer = lambda job, n: [1.0] * n  # noqa: E731

    times = timing.interleaved({"a": lambda: timing.Job(lambda: None)}, 2, 5.5, timer)

    assert times.rounds == {"a": [[1.0] * 5] * 2}


@pytest.mark.parametrize("at", (0, 1, 3), ids=("warm-up", "second", "in a round"))
def test_who_raises_is_left_out_with_what_was_raised(at: int) -> None:
    calls = iter(range(9))

    def run() -> None:
        if next(calls) == at:
            raise ArithmeticError("no figure\nand more")

    jobs = {"a": lambda: timing.Job(run), "b": lambda: timing.Job(lambda: None)}

    times = timing.interleaved(jobs, 2, 0.0, timing.wall)

    assert times.failed == {"a": "ArithmeticError: no figure"}
    assert list(times.rounds) == ["b"]


def test_clean_up_is_not_timed() -> None:
    clock = iter(range(100))
    seen = []

    def cleans() -> None:
        seen.append(next(clock))

    assert timing.wall(timing.Job(lambda: None, cleans), 3, lambda: float(next(clock))) == [1.0] * 3
    assert seen == [2, 5, 8]


def test_a_device_is_timed_by_its_events_read_when_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, end: Event) -> float:
            done.append("read")
            return 5.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))

    assert timing.cuda(timing.Job(lambda: done.append("run"), lambda: done.append("clean")), 2) == [0.005] * 2
    assert done == ["event", "run", "event", "clean"] * 2 + ["wait", "read", "read"]


def test_peak_memory_is_what_a_pass_takes_above_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"memory_allocated": 100, "max_memory_allocated": 148}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)

    assert measure.peak(timing.Job(lambda: None), torch.zeros(6)) == 2.0


@pytest.mark.parametrize("what", PASSES)
@pytest.mark.parametrize("decoder", (False, True), ids=("alone", "decoder"))
@pytest.mark.parametrize("kind", KINDS)
def test_each_pass_of_each_kind_runs(kind: str, what: str, decoder: bool) -> None:
    how = measure.How("cpu", timing.wall, rounds=1, seconds=0.0, condition=2, decoder=decoder)
    cell = measure.cell([BESIDE["eager"]], kind, what, "", Size((4, 3, 3), 2), how, lambda: None)

    assert cell.failed == {}
    assert list(cell.times) == ["eager"]
    assert list(cell.limits) == ["copy"] + ["product"] * (kind == "soft") + ["subnets"] * decoder
    assert bool(cell.saved) == (what == "backward")


@pytest.mark.parametrize("size", ("64@8", "16x4x4@4"))
def test_bytes_that_the_fast_block_keeps_are_those_of_the_answer(size: str) -> None:
    given = measure.Inputs.of(Size.parse(size), 0, "cpu")
    flow = Flow(BESIDE["fast"].target(), "hard", Size.parse(size), 0, False, "cpu", False)

    assert 1 <= measure.saved(flow, given) <= 1.1


def test_bytes_kept_are_counted_once_a_storage_and_without_what_was_given() -> None:
    class Keeps:
        state: list[torch.Tensor] = [torch.ones(6, requires_grad=True)]

        def run(self, x: torch.Tensor, c: Any, rev: bool) -> Any:
            a = x * 2  # keeps nothing
            return a * a * self.state[0] + c[0], a[:, 0] * a[:, 1]  # a, twice, and a*a

    given = measure.Inputs.of(Size((6,), 4), 6, "cpu")

    assert measure.saved(Keeps(), given) == 2.0  # type: ignore[arg-type]


def test_a_decoder_runs_its_blocks_in_a_row_and_back_in_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWREF_FAST", "eager")
    size = Size((4,), 3)
    flow = Flow(BESIDE["eager"].target(), "hard", size, 0, True, "cpu", False)
    x = measure.Inputs.of(size, 0, "cpu").x
    for rev in (False, True):
        y, total = flow.run(x, (), rev)
        want, sums = x, torch.zeros(3)
        for block in flow.blocks[:: -1 if rev else 1]:
            (want,), logdet = block([want], rev=rev)
            sums = sums + logdet

        assert torch.equal(y, want) and torch.equal(total, sums)
    assert len(flow.blocks) == 8 and not any(isinstance(block.subnet, Copy) for block in flow.blocks)


def test_a_matrix_of_too_many_channels_is_left_out_and_an_index_is_not() -> None:
    how = measure.How("cpu", timing.wall, rounds=1, seconds=0.0)
    both = [BESIDE["eager"], BESIDE["index"]]
    cell = measure.cell(both, "hard", "forward", "", Size((4097,), 1), how, lambda: None)

    assert list(cell.times) == ["index"]
    assert cell.failed == {"eager": "MemoryError: a W of 4097² numbers is left out above 4096 channels"}


# ---- figures


def test_figures() -> None:
    base, rounds = [[2.0, 2.0], [4.0, 4.0], [2.0, 8.0]], [[1.0, 1.0], [1.0, 1.0], [10.0, 10.0]]

    assert results.ratio(rounds, base) == (0.5, 0.375, 1.25, 0.5)
    assert results.time_of([[3.0], [1.0], [2.0]]) == (2.0, 1.5, 2.5, 1.0)
    assert results.then_and_now([[2.0]], [[4.0]]) == (0.5, 0.5, 0.5, 0.5)
    assert round(results.geometric([1.0, 4.0]), 12) == 2


def test_the_slope_of_what_grows_like_size_is_1() -> None:
    sizes = [10**k for k in range(5)]

    assert round(results.slope(sizes, [3e-9 * n for n in sizes]), 9) == 1
    assert round(results.slope(sizes, [3e-9 * n**2 for n in sizes]), 9) == 2


# ---- who is refused


def test_a_contender_that_smoke_does_not_hold_is_refused_and_the_others_are_shown(
    monkeypatch: pytest.MonkeyPatch, mine: str
) -> None:
    wrong = f"{mine}:Wrong"
    judged = judge(
        monkeypatch, lambda one: Verdict(int(one.text == wrong), "Broken." if one.text == wrong else "Held.")
    )

    code, out = ran(replace(SMALL, targets=(wrong, wrong), unverified=False), 200)

    assert code == 1
    assert [one.name for one in judged] == ["eager", wrong]
    assert f"refused {wrong}: Broken. (flowref check {wrong} --profile smoke)" in out
    table = out[out.index("size") :].splitlines()[0]
    assert "eager" in table and wrong not in table


@pytest.mark.parametrize("code", (3, 5))
def test_no_verdict_is_no_pass(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    judge(monkeypatch, lambda one: Verdict(code, "No evidence."))

    assert ran(replace(SMALL, unverified=False))[0] == 1


def test_an_interrupted_verdict_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, lambda one: Verdict(2, "Interrupted."))

    assert ran(replace(SMALL, unverified=False))[0] == 2


def test_public_blocks_are_judged_with_what_is_known_of_them_and_ours_in_its_own_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def run(settings: Any, workers: str, first: bool, show: Any) -> Any:
        form = contenders.os.environ.get("FLOWREF_FAST", "")
        known = settings.known_failures.stem if settings.known_failures else ""
        given.append((settings.targets[0].partition(":")[0], known, form, settings.dialect, settings.profile))
        return None, Verdict(0, "Held."), ""

    monkeypatch.setattr(contenders.check, "run", run)
    monkeypatch.setenv("FLOWREF_FAST", "eager")
    for name in BESIDE:
        contenders.smoke(BESIDE[name], "cpu", lambda evidence, elapsed: None)

    assert given == [
        ("flowref.targets.anomalib", "anomalib", "", None, "smoke"),
        ("flowref.targets.freia", "freia", "", None, "smoke"),
        ("flowref.fast", "", "eager", None, "smoke"),
        ("flowref.fast", "", "", None, "smoke"),
        ("flowref.fast", "", "", "freia-main", "smoke"),
    ]
    assert contenders.os.environ["FLOWREF_FAST"] == "eager"


@pytest.mark.slow
def test_the_gate_itself_holds_no_wrong_block(monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    """By one law, in one process: the others would only take longer."""
    law, whole = ("inverse.exact-where-the-arithmetic-is-exact",), contenders.check.run
    one = lambda settings, workers, first, show: whole(replace(settings, laws=law), "1", first, show)  # noqa: E731
    monkeypatch.setattr(contenders.check, "run", one)

    code, out = ran(replace(SMALL, targets=(f"{mine}:Wrong",), unverified=False), 200)

    assert code == 1
    shown = out.index("BROKEN inverse.exact-where-the-arithmetic-is-exact")
    assert out.index("flowref replay ") > shown and out.index("Broken: 1 finding") > shown


def test_without_verdicts_everything_says_so(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, out = ran(replace(SMALL, json=str(file)))

    assert code == 0
    titles = [line for line in out.splitlines() if "hard, " in line and "@" not in line]
    assert len(titles) == 4 and all(line.startswith("UNVERIFIED") for line in titles)
    assert json.loads(file.read_text())["verified"] is False


def test_who_raises_in_each_pass_is_told_once_and_nothing_measured_is_no_evidence(mine: str) -> None:
    target = f"{mine}:Block"
    code, out = ran(replace(SMALL, targets=(target,)), 200)

    assert code == 0
    assert f"left out {target}: ArithmeticError: no figure (hard forward 6@4 and 5 more)" in out


def test_who_is_not_installed_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(BESIDE["freia"], text="flowref.targets.absent:AllInOneBlock")
    monkeypatch.setitem(BESIDE, "freia", gone)
    monkeypatch.setenv("FLOWREF_FAST", "eager")
    monkeypatch.setattr(contenders, "kernels", lambda device: "eager")

    code, out = ran(replace(SMALL, beside="freia,eager,fast"), 200)

    assert code == 0
    assert "left out freia: no target" in out
    assert "left out fast: no kernels for cpu here, so it is eager. Install: pip install flowref[cpu]" in out


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "The machine is busy: load average 900.0"
    assert told not in ran(SMALL)[1]
    monkeypatch.setattr(place, "load", lambda: 900.0)

    assert told in ran(SMALL)[1]


# ---- what is shown


def fixed() -> Run:
    """Figures that never change."""
    rounds = lambda ms: [[round(share * ms / 1e3, 9) for share in turn] for turn in ((1, 1.5), (1.25, 1.25))]  # noqa: E731
    cell = Cell(
        "hard",
        "backward",
        "",
        "48x32x32@8",
        393216,
        {"anomalib": rounds(12.0), "fast": rounds(3.0)},
        {"copy": rounds(0.5)},
        {},
        {"anomalib": 3.0, "fast": 1.0},
        {},
        {"mine.py:Block": "ArithmeticError: no figure"},
    )
    other = replace(cell, size="64@4096", times={"anomalib": rounds(250.0), "fast": rounds(125.0)}, saved={"fast": 1.0})
    return Run(
        date="2026-11-28T01:00:00+00:00",
        versions={"flowref": "0.1.0", "torch": "2.13.0"},
        device="cpu",
        processor="A Processor",
        cores=2,
        threads=2,
        kernels="numba",
        clock="wall",
        load=[0.1, 0.9],
        preset="shapes",
        decoder=False,
        rounds=2,
        seconds=0.02,
        verified=True,
        contenders={"anomalib": "Held.", "fast": "Held.", "mine.py:Block": "Held."},
        left_out={"freia": "this target needs FrEIA"},
        cells=[cell, other],
    )


def shown(run: Run, old: Run | None = None) -> str:
    out = StringIO()
    report.show(Console(file=out, width=80, no_color=True), run, old)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


SNAPSHOT = Path(__file__).with_name("snapshot.txt")


def test_all_that_is_printed() -> None:
    old = replace(fixed(), processor="Another", verified=False)
    old.cells[0].times["fast"] = [[0.006, 0.006]]

    assert shown(fixed(), old) == SNAPSHOT.read_text(encoding="utf-8")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    fixed().write(tmp_path / "run.json")

    assert Run.read(tmp_path / "run.json") == fixed()


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"format": 1}'))
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(Unusable, match="--json"):
        Run.read(file)


def test_a_run_is_compared_with_itself(tmp_path: Path) -> None:
    file = str(tmp_path / "run.json")
    ran(replace(SMALL, json=file))
    code, out = ran(replace(SMALL, compare=file), 200)

    assert code == 0
    assert "The older run is UNVERIFIED." in out and "Not the same place" not in out
    assert out[out.index("time ÷ that of the older run") :].count("@") == 2 * 3


def test_growth_is_told_for_series_only() -> None:
    cell, sizes = fixed().cells[0], [10**k for k in range(3, 8)]
    series = [replace(cell, series="B", numbers=n, times={"fast": [[max(1e-5, 1e-9 * n)]]}) for n in sizes]

    assert report.growth([cell]) == []
    assert report.growth(series) == [
        "time against B, fast: slope 0.80 over 1,000 to 10,000,000 numbers, 1.00 over the upper two decades; "
        "1.00 ns a number at the end"
    ]


@pytest.mark.parametrize("series", (False, True), ids=("ratios", "growth"))
def test_the_plot_names_who_is_in_it(tmp_path: Path, series: bool) -> None:
    pytest.importorskip("matplotlib")
    run = fixed()
    if series:
        run.cells = [replace(cell, series="B") for cell in run.cells]
    plot.draw(run, str(tmp_path / "run.png"))
    plot.draw(run, str(tmp_path / "run.svg"))

    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "run.svg").read_text(encoding="utf-8")
    for name in ("fast", "copy", "slope 1" if series else "anomalib"):
        assert f"<!-- {name} -->" in text


def test_without_matplotlib_the_plot_is_left_out_and_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)

    code, out = ran(replace(SMALL, plot="run.png"))

    assert code == 0
    assert out.endswith("The plot is left out: it needs pip install flowref[bench].\n")
