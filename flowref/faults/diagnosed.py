"""How many findings one defect makes, and whether they lead to the right step.

    python -m flowref.faults.diagnosed            a hundred faults, each under all laws in `smoke`
    python -m flowref.faults.diagnosed ID ...     these

A line a fault: how many findings, and each finding's step with its laws. Nothing is asserted; docs/gate.md has the
figures that were measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import track

from flowref.faults import corpus
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


def diagnosed(ids: Sequence[str]) -> Iterator[tuple[str, list[Finding]]]:
    """The findings of each fault. Law by law, so that the reference's passes serve all of them."""
    records: dict[str, list[Record]] = defaultdict(list)
    judges: dict[str, Judge] = {}
    settings: dict[str, Settings] = {}
    for id in ids:
        fault = corpus.find(id)
        name = f"{corpus.build(fault).__module__}:PlainBlock"
        settings[id] = Settings(targets=(name,), dialect=fault.dialects[0], profile="smoke", device="cpu")
        judges[id] = Judge(settings[id])
    laws, shown = list(registry.asked()), Console(stderr=True)
    for law in track(laws, f"{len(ids)} faults under {len(laws)} laws", console=shown, transient=True):
        for id in ids:
            records[id] += [judges[id].judge(item) for item in items(settings[id], [law])]
    for id in ids:
        yield id, findings(records[id])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flowref.faults.diagnosed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("ids", metavar="ID", nargs="*", help=f"a planted fault; without any, {len(STEPS)} of them")
    given = parser.parse_args(arguments)
    ids: list[str] = given.ids or list(STEPS)
    try:
        for id in ids:
            corpus.find(id)
    except KeyError as unknown:
        parser.error(unknown.args[0])
    one = right = 0
    for start in range(0, len(ids), 8):
        for id, found in diagnosed(ids[start : start + 8]):
            steps, wanted = [finding.step for finding in found], STEPS.get(id, "no step on record")
            one += len(found) == 1
            right += wanted in steps[:1]
            said = "; ".join(f"{f.step}: {', '.join(f.laws)}" for f in found)
            print(f"{len(found)} {'right' if wanted in steps else 'WRONG'} {id} ({wanted}) {said}", flush=True)
    print(f"Of {len(ids)}: one finding in {one}, the right step first in {right}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
