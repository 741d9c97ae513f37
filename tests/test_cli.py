"""The commands: quick to answer, each error with a remedy and exit code 4."""

import subprocess
import sys
from pathlib import Path

import pytest

import flowref
from flowref.laws import registry

ROOT = Path(flowref.__file__).parents[1]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowref.cli", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_imports_no_torch() -> None:
    """Half a second is all that a question about usage may take: torch alone needs four times that."""
    code = (
        "import sys, flowref.cli\n"
        "sys.argv = ['flowref', *sys.argv[1:]]\n"
        "try: flowref.cli.main()\n"
        "finally: print([m for m in ('torch', 'hypothesis', 'pytest') if m in sys.modules])\n"
    )

    for words in (["--help"], ["check", "--help"], ["--version"], ["golden", "verify", "--help"], ["bench", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().splitlines()[-1] == "[]"


def test_check_help_says_what_is_judged_without_a_target_and_what_each_code_means() -> None:
    told = " ".join(command("check", "--help").stdout.replace("│", " ").split())

    assert "without any, flowref.fast:AllInOneBlock" in told
    assert "0 held, 1 broken, 2 to 5 no verdict" in told


def test_version() -> None:
    assert command("--version").stdout == f"flowref {flowref.__version__}\n"


def test_laws_lists_each_with_statement_and_formula_under_its_family() -> None:
    listed = command("laws").stdout

    for law in registry.all():
        under = listed.partition(f"\n# {law.family}: ")[2].partition("\n# ")[0]
        assert f"{law.id}\n  {law.statement}: {law.formula}\n" in under


def test_a_law_whole() -> None:
    told = command("laws", "inverse.reverse-undoes-forward").stdout

    assert told.startswith(
        "inverse.reverse-undoes-forward\n  Reverse undoes forward.\n  Formula: reverse(forward(x)) = x\n"
    )
    for heading in ("Bound:", "Sees:", "Blind to:", "Spec:", "Since:", "Regimes:", "Broken by:", "Source:"):
        assert f"  {heading} " in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("chek",), "Did you mean 'check'?"),
        (("check", "--profle", "smoke"), "No such option: --profle"),
        (("check", "--profile", "fast"), "flowref: --profile='fast' is unknown: need one of ci, smoke, nightly."),
        (("check", "-n", "many"), "flowref: -n='many' is no number of processes: need auto, or a whole number"),
        (
            ("laws", "inverse.reverse"),
            "flowref: no law 'inverse.reverse'. Did you mean inverse.reverse-undoes-forward?",
        ),
    ],
)
def test_usage_errors_end_with_4(words: tuple[str, ...], message: str) -> None:
    done = command(*words)

    assert (done.returncode, message in done.stdout + done.stderr) == (4, True), done.stderr
