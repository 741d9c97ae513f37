"""How many findings one defect makes, and whether they lead to the right step.

    python -m flowref.faults.diagnosed              faults and ports, two hundred, each under all laws in `smoke`
    python -m flowref.faults.diagnosed ID ...       these
    python -m flowref.faults.diagnosed --quick      each under a few laws, in float32, on explicit rows alone

A line each: how many findings, and each finding's step with its laws. Nothing is asserted; docs/gate.md has the figures
that were measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from flowref.faults import corpus, ports
from flowref.gate.evidence import Record
from flowref.gate.findings import Finding, findings
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import items
from flowref.laws import registry

# Fault -> the step of the block that it is in; steps that are no part of a pass are families of laws.
STEPS: dict[str, str] = {
    id: step
    for step, ids in {
        "coupling": """reverse-scales-up-again reverse-ignores-conditions shift-forgotten-past-256-pixels
            shift-forgotten-past-524288-numbers shift-is-clamped-too conditions-leak-into-the-passive-part
            subnet-called-twice second-condition-ignored halves-interleaved first-sample-not-shifted exp-keeps-12-bits
            non-finite-condition-masks-the-batch""",
        "clamp": """clamp-missing clamp-does-not-divide-by-alpha clamp-one-sided clamp-logs-what-saturates""",
        "GIN mean": "gin-mean-over-channels-only gin-mean-of-padded-tiles",
        "global affine": """reverse-keeps-offset offset-forgotten-past-16-channels initial-softplus-scale-is-10-g
            sigmoid-scale-off-by-shift scale-fixed-by-the-constructor scale-enters-twice offset-after-mixing
            offset-ignored""",
        "W": """mixing-in-float32 soft-matrix-transposed-before-reflections soft-has-either-determinant
            soft-is-near-the-identity hard-never-keeps-channel-0 reflections-on-the-other-side-of-w0
            reflections-fixed-by-the-constructor reflections-start-tiny reverse-permutation-ignored
            w-sums-64-channels-at-pixels-past-64 w-sums-64-channels-in-samples-past-64""",
        "log-det": """reverse-logdet-without-minus-of-coupling logdet-forgets-coupling logdet-of-active-scales-only
            logdet-logs-the-sum-of-scales logdet-adds-that-of-stored-w logdet-forgets-pixels-past-256
            logdet-keeps-an-axis logdet-sums-over-the-batch logdet-sums-one-by-one gin-logdet-before-centring
            logdet-forgets-pixels half-sums-in-half""",
        "gradient": """backward-assumes-contiguous-gradients conditions-detached offset-gradient-doubled
            scale-detached-in-output shift-detached answer-scaled-in-place expanded-gradient-read-as-a-row
            input-gradient-forgotten-past-64-channels-and-64-pixels
            pass-clears-gradients graph-made-under-no-grad w-read-as-it-stands-in-backward
            gradient-masked-by-the-output-as-it-stands""",
        "state": """second-pass-clamps-wider scale-and-offset-share-their-storage state-has-an-entry-more
            reflections-are-not-trained w-cached-at-first-pass w-cached-until-loading eval-keeps-w
            activation-is-a-local-function w-is-a-frozen-parameter index-vectors-refused""",
        "answer": "rank-3-flattened one-channel-raises output-dims-drops-an-axis",
        "purity": """active-half-updated-in-place input-takes-its-gradient subnet-input-cleared grad-mode-switched-on
            tf32-switched-on output-is-a-kept-buffer w-kept-with-its-graph active-half-handed-over-on-the-block
            workspace-of-all-blocks""",
        "batch": "nan-spreads-over-the-batch",
        "threads": """shift-forgotten-behind-equal-shares-of-threads
            input-gradient-forgotten-behind-equal-shares-of-threads""",
        "dtype": "float64-input-cut-to-float32",
        "random": "rotation-drawn-from-numpy construction-shuffles-by-python w-always-in-float32",
        "refusals": """shapes-rounded fourth-axis-folded unknown-activation-taken-for-exp clamp-of-0-divided-by
            scale-beyond-the-dtype arguments-refused-without-a-name second-input-ignored
            input-on-another-device-unchecked input-checked-after-the-pass
            conditions-of-an-unconditional-block-ignored condition-of-one-sample-broadcast answer-unchecked
            loaded-index-unchecked loaded-inverse-may-be-anything conditions-must-be-a-list reverse-only-for-true
            sign-from-a-power-of-rev""",
        "layout": """channels-last-taken-for-contiguous input-read-from-the-start-of-its-storage""",
        "nondeterminism": "masked-sum-over-unwritten-memory",
        "compile": "backward-adds-into-an-unbatched-tensor",
    }.items()
    for id in ids.split()
}
PORTS = tuple(port.id for port in ports.PORTS)
# Laws that see most of what is wrong with a pass or a new block, for a quick look.
QUICK = (
    "shape.answers-in-shape", "reference.output-equals-reference", "inverse.reverse-undoes-forward",
    "inverse.log-dets-cancel", "logdet.equals-reference", "logdet.equals-jacobian", "gin.logdet-is-0",
    "gin.mean-is-per-sample", "affine.initial-scale-is-g", "affine.scale-follows-its-activation",
    "affine.offset-enters-once", "clamp.bounded-by-alpha", "clamp.odd", "permutation.hard-is-a-permutation",
    "permutation.soft-is-haar", "permutation.reflections-compose-in-order", "permutation.reflections-start-small",
    "permutation.reverse-permutation-undoes-the-permutation", "coupling.passive-passes-through",
    "coupling.halves-have-their-roles", "coupling.subnet-sees-passive-then-conditions", "gradient.by-input",
    "gradient.by-parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Wrong:
    """A wrong block: where it is found, and the steps to which it may lead."""

    id: str
    target: str
    dialect: str
    steps: tuple[str, ...]


def wrong(id: str) -> Wrong:
    """The fault or port of this id, compiled. Raises KeyError."""
    if id in PORTS:
        port = ports.find(id)
        return Wrong(id, f"{ports.build(port).__module__}:PlainBlock", "anomalib", port.steps)
    fault = corpus.find(id)
    steps = (STEPS[id],) if id in STEPS else ()
    return Wrong(id, f"{corpus.build(fault).__module__}:PlainBlock", fault.dialects[0], steps)


def judged(one: Wrong, quick: bool) -> Judge:
    """Who judges it: all of `smoke`, or its explicit rows alone, where each law's first failing one stands."""
    settings = Settings((one.target,), one.dialect, "smoke", "cpu", laws=QUICK if quick else ())
    if quick:
        settings = replace(settings, precisions=("float32",), shrink=False)
        object.__setattr__(settings, "budget", replace(settings.budget, searched=0, searched_edge=0))
    return Judge(settings)


def diagnosed(ids: Sequence[str], quick: bool = False) -> Iterator[tuple[Wrong, list[Finding]]]:
    """The findings of each. Law by law, so that the reference's passes serve all of them."""
    records: dict[str, list[Record]] = defaultdict(list)
    blocks = [wrong(id) for id in ids]
    judges = {one.id: judged(one, quick) for one in blocks}
    laws, shown = list(registry.asked(QUICK if quick else ())), Console(stderr=True)
    for law in track(laws, f"{len(ids)} blocks under {len(laws)} laws", console=shown, transient=True):
        for id, judge in judges.items():
            records[id] += [judge.judge(item) for item in items(judge.settings, [law])]
    for one in blocks:
        yield one, findings(records[one.id])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    every = [*STEPS, *PORTS]
    parser = argparse.ArgumentParser(
        prog="python -m flowref.faults.diagnosed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("ids", metavar="ID", nargs="*", help=f"a fault or port; without any, {len(every)} of them")
    parser.add_argument("--quick", action="store_true", help="a few laws, in float32, on explicit rows alone")
    given = parser.parse_args(arguments)
    ids: list[str] = given.ids or every
    try:
        for id in ids:
            wrong(id)
    except KeyError as unknown:
        parser.error(unknown.args[0])
    single = right = 0
    for start in range(0, len(ids), 8):
        for one, found in diagnosed(ids[start : start + 8], given.quick):
            hit = any(step in one.steps for step in [finding.step for finding in found][:1])
            single += len(found) == 1
            right += hit
            said = "; ".join(f"{f.step}: {', '.join(f.laws)}" for f in found)
            wanted = " or ".join(one.steps) or "no step on record"
            print(f"{len(found)} {'right' if hit else 'WRONG'} {one.id} ({wanted}) {said}", flush=True)
    print(f"Of {len(ids)}: one finding in {single}, the right step first in {right}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
