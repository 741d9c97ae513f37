"""`flowref bench`: who takes part, whether the gate holds them, then every cell of the preset, then what is shown.

Exit codes: 0 shown; 1 a contender was refused, the others are shown; 2 interrupted; 4 can't be used as given;
5 nothing was measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import flowref
from flowref.bench import contenders, measure, place, plot, report, timing
from flowref.bench.contenders import BESIDE, COMPILED, Contender
from flowref.bench.presets import KINDS, PASSES, PRESETS, Size
from flowref.bench.results import Run
from flowref.gate import progress
from flowref.gate.findings import findings
from flowref.gate.options import DEVICES, Unusable, one_of
from flowref.gate.report.message import message
from flowref.gate.verdict import BROKEN, HELD, INTERRUPTED, NO_EVIDENCE
from flowref.laws.run import threads

BUSY = 0.5  # load average a core above which ratios scatter


@dataclass(frozen=True)
class Asked:
    """What was asked for, as words; see the options of `flowref bench`."""

    targets: tuple[str, ...] = ()
    preset: str = "shapes"
    passes: str | None = None
    kinds: str | None = None
    shapes: str | None = None
    beside: str | None = None
    compiled: bool = False
    decoder: bool = False
    device: str = "auto"
    threads: int | None = None
    rounds: int = 15
    seconds: float = 0.02
    cpu_time: bool = False
    json: str | None = None
    plot: str | None = None
    compare: str | None = None
    unverified: bool = False


def run(asked: Asked, console: Console) -> int:
    """Measure, show, write; the exit code. Raises Unusable."""
    bench = Bench(asked, console)
    old = Run.read(Path(asked.compare)) if asked.compare else None
    without = plot.missing(asked.plot) if asked.plot else ""
    try:
        found = bench.run()
    except KeyboardInterrupt:
        return INTERRUPTED
    report.show(console, found, old)
    if asked.json:
        found.write(Path(asked.json))
    measured = any(cell.times for cell in found.cells)
    if asked.plot and measured:
        bench.say(without or plot.draw(found, asked.plot))
    return BROKEN if found.refused else HELD if measured else NO_EVIDENCE


class Bench:
    """One run, checked. Raises Unusable."""

    def __init__(self, asked: Asked, console: Console) -> None:
        self.asked, self.console = asked, console
        self.preset = PRESETS[one_of("--preset", asked.preset, tuple(PRESETS))]
        self.kinds = _words("--kinds", asked.kinds, self.preset.kinds, tuple(KINDS))
        self.passes = _words("--passes", asked.passes, PASSES, PASSES)
        if asked.shapes:
            sizes = tuple(map(Size.parse, asked.shapes.split(",")))
            self.preset = replace(self.preset, series={"": sizes})
        self.device = _device(asked)
        for name, file in (("--json", asked.json), ("--plot", asked.plot)):
            _check_place(name, file)
        self.threads = 1 if asked.cpu_time else asked.threads or torch.get_num_threads()
        self.timer = timing.cuda if self.device == "cuda" else timing.processor if asked.cpu_time else timing.wall
        wanted = [BESIDE[name] for name in _words("--beside", asked.beside, self.preset.beside, tuple(BESIDE))]
        self.contenders, self.missing = contenders.there(wanted + [COMPILED] * asked.compiled, self.device)
        self.contenders += [Contender.of(text) for text in dict.fromkeys(asked.targets)]

    def say(self, text: str) -> None:
        """One line of text."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def run(self) -> Run:
        """All of it."""
        if self.device == "cuda":
            place.without_tf32()
        found = self._begun()
        if found.load[0] > BUSY * found.cores:
            self.say(f"The machine is busy: load average {found.load[0]:.1f} on {found.cores} cores. Ratios scatter.")
        if found.verified:
            self._judge(found)
        else:
            found.contenders = {one.name: "not judged" for one in self.contenders}
        total = len(self.kinds) * len(self.passes) * len(self.preset.sizes) * self.asked.rounds
        with threads(self.threads), place.shown(self.console, total) as tick:
            for kind in self.kinds if self.contenders else ():
                self._measure(kind, found, tick)
        found.load.append(place.load())
        return found

    def _begun(self) -> Run:
        asked = self.asked
        packages = ("numba", "triton", "anomalib", "FrEIA")
        return Run(
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            versions={"flowref": flowref.__version__, "torch": torch.__version__}
            | {name: version for name in packages if (version := place.version(name))},
            device=self.device,
            processor=place.processor(self.device),
            cores=os.cpu_count() or 1,
            threads=self.threads,
            kernels=contenders.kernels(self.device),
            clock="device" if self.device == "cuda" else "CPU" if asked.cpu_time else "wall",
            load=[place.load()],
            preset=asked.shapes or asked.preset,
            decoder=asked.decoder,
            rounds=asked.rounds,
            seconds=asked.seconds,
            verified=not asked.unverified,
            left_out=dict(self.missing),
        )

    def _judge(self, found: Run) -> None:
        """Smoke for each; what torch.compile makes of anomalib's block stands on anomalib's verdict."""
        for one in self.contenders:
            if one.compiled:
                continue
            self.say(f"smoke: {one.name}")
            with progress.shown_on(self.console) as show:
                evidence, verdict = contenders.smoke(one, self.device, show)
            if verdict.code == INTERRUPTED:
                raise KeyboardInterrupt
            if verdict.code == HELD:
                found.contenders[one.name] = verdict.sentence
            else:
                found.refused[one.name] = f"{verdict.sentence} (flowref check {one.text} --profile smoke)"
                for finding in findings(evidence.records)[:1]:
                    self.say(message(finding.records[0]))
        if "anomalib" in found.contenders and COMPILED in self.contenders:
            found.contenders[COMPILED.name] = "as anomalib"
        self.contenders = [one for one in self.contenders if one.name in found.contenders]

    def _measure(self, kind: str, found: Run, tick: place.Tick) -> None:
        asked = self.asked
        how = measure.How(self.device, self.timer, asked.rounds, asked.seconds, self.preset.condition, asked.decoder)
        for what in self.passes:
            for series, sizes in self.preset.series.items():
                for size in sizes:
                    told = partial(tick, f"{kind} {what} {size}")
                    found.cells.append(measure.cell(self.contenders, kind, what, series, size, how, told))


def _words(name: str, text: str | None, otherwise: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a list joined by commas. Raises Unusable."""
    return tuple(dict.fromkeys(one_of(name, word, known) for word in text.split(","))) if text else otherwise


def _check_place(name: str, text: str | None) -> None:
    """Raises Unusable where no file can be written there: a run that can't keep what it measures is not begun."""
    if text and (Path(text).is_dir() or not os.access(Path(text).parent, os.W_OK)):
        raise Unusable(f"{name}={text!r}: no file can be written there. Give one in a folder that is there.")


def _device(asked: Asked) -> str:
    there = torch.cuda.is_available()
    if one_of("--device", asked.device, DEVICES) == "cuda" and not there:
        raise Unusable(f"--device='cuda': torch {torch.__version__} sees no CUDA device. Use cpu, or auto.")
    device = "cuda" if there and asked.device != "cpu" else "cpu"
    if asked.cpu_time and device == "cuda":
        raise Unusable("--cpu-time counts the CPU's time, but the device is cuda. Add --device cpu.")
    return device
