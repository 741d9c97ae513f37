"""Never green without evidence, whatever the target does: each way to be hostile, started as a user would start it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Check = Callable[..., Any]
pytestmark = pytest.mark.slow

# What the block does in each pass; the exit code; what the last sentence says.
PASSES = {
    "nothing wrong": ("return super().forward(*a, **k)", 0, "Held: 1 law on target.py:Block, over"),
    "prints garbage": ('print("1 passed", "\\x1b[2J{}" * 99); return super().forward(*a, **k)', 0, "Held"),
    "skips": ('pytest.skip("not today")', 5, "No evidence: target.py:Block never answered"),
    "expects to fail": ('pytest.xfail("not today")', 5, "No evidence: target.py:Block never answered"),
    "ends pytest": ('pytest.exit("done", 0)', 5, "No evidence: target.py:Block never answered"),
    "exits": ("sys.exit(0)", 5, "No evidence: target.py:Block never answered"),
    "interrupts": ("raise KeyboardInterrupt", 5, "No evidence: target.py:Block never answered"),
    "raises always": ('raise ValueError("no")', 5, "No evidence: target.py:Block never answered"),
    "hangs": ("time.sleep(1000)", 5, "No evidence: target.py:Block never answered"),
    "leaves the process": ("os._exit(0)", 3, "No verdict: a worker died."),
    "kills its process": ("os.kill(os.getpid(), signal.SIGKILL)", 3, "No verdict: a worker died."),
    "kills the controller": ("os.kill(os.getppid(), signal.SIGKILL); time.sleep(9)", 3, "No verdict: a worker died."),
    "returns NaN": ("(y,), j = super().forward(*a, **k); return (y * float('nan'),), j", 1, "Broken: 1 finding"),
    "returns nothing": ("return None", 5, "No evidence: target.py:Block never answered"),
    "returns another shape": ("(y,), j = super().forward(*a, **k); return (y[..., :0],), j", 1, "Broken: 1 finding"),
    "raises on a legal case": ("assert len(a[0][0]) != 3; return super().forward(*a, **k)", 1, "Broken: 1 finding"),
    "skips on a legal case": (
        "return super().forward(*a, **k) if len(a[0][0]) != 3 else pytest.skip('three')", 1, "Broken: 1 finding",
    ),
    "hangs on a legal case": (
        "return super().forward(*a, **k) if len(a[0][0]) != 3 else time.sleep(1000)", 1, "Broken: 1 finding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PASSES)
def test_a_pass_that(what: str, check: Check) -> None:
    body, code, sentence = PASSES[what]

    ended = check(f"""
        class Block(Block):
            def forward(self, *a, **k):
                {body}
        """, "--call-timeout", "2")  # fmt: skip

    assert (ended.code, sentence) == (code, ended.last[: len(sentence)]), ended.out


# Laws that need an answer, and laws that don't.
SEVERAL = ("--law", "error.named-inputs", "--law", "shape", "--law", "random.follows-the-default-dtype", "--profile",
           "smoke", "--precision", "float32")  # fmt: skip


@pytest.mark.parametrize("how", [("0",), ("2",), ("0", "-x"), ("2", "-x")], ids=" ".join)
@pytest.mark.parametrize("error", ["RuntimeError('no')", "MemoryError", "RecursionError"])
def test_a_target_that_raises_in_every_pass_gave_no_evidence(error: str, how: tuple[str, ...], check: Check) -> None:
    ended = check(f"""
        class Block(Block):
            def forward(self, *a, **k):
                raise {error}
        """, *how[1:], workers=how[0], what=SEVERAL)  # fmt: skip

    assert (ended.code, True) == (5, "target.py:Block never answered" in ended.last), ended.out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_that_raises_in_the_first_law_alone_is_broken(workers: str, check: Check) -> None:
    ended = check("""
        class Block(Block):
            def forward(self, *a, **k):
                if len(a[0][0]) == 0:
                    raise RuntimeError("no")
                return super().forward(*a, **k)
        """, "-x", workers=workers, what=("--law", "shape.answers-at-batch-0", *SEVERAL[4:]))  # fmt: skip

    assert (ended.code, "Broken: 1 finding (answer)") == (1, ended.last[:26]), ended.out


# What the module does when it is imported.
IMPORTS = {
    "patches the comparison": (
        "from flowref.laws.run import Run\nRun.within = lambda *a, **k: None", 3, "the judge was tampered with",
    ),
    "patches its code": (
        "from flowref.laws.run import Run\nRun.same.__wrapped__.__code__ = (lambda *a, **k: None).__code__",
        3, "the judge was tampered with",
    ),
    "patches its outer code": (
        "from flowref.laws.run import Run\n"
        "def outer(func, self): return lambda *a, **k: None\n"
        "Run.same.__code__ = outer(1, 2).__code__.replace(co_freevars=Run.same.__code__.co_freevars)",
        3, "the judge was tampered with",
    ),
    "patches torch": (
        "torch.Tensor.__le__ = lambda a, b: torch.ones_like(a, dtype=torch.bool)", 3, "the judge was tampered with",
    ),
    "patches a law": (
        "from flowref.laws import registry\n"
        "for law in registry.all(): object.__setattr__(law, 'body', lambda run: None)",
        3, "the judge was tampered with",
    ),
    "removes laws": ("from flowref.laws import registry\nregistry._LAWS.clear()", 3, "the judge was tampered with"),
    "patches the gate": (
        "from flowref.gate.hold import Judge\nJudge.judge = lambda *a: {'status': 'held'}", 3, "No verdict",
    ),
    "deletes the evidence": (
        "import glob\nfor f in glob.glob(os.environ['TMPDIR'] + '/flowref-*/evidence*'): os.remove(f)",
        3, "No verdict: ",
    ),
    "forges the evidence": (
        "import glob, json\nfor f in glob.glob(os.environ['TMPDIR'] + '/flowref-*/evidence*'):"
        "\n  open(f, 'a').write(json.dumps({'kind': 'end', 'token': ''}) + '\\n')", 3, "the judge was tampered with",
    ),
    "leaves the process": ("os._exit(0)", 3, "No verdict: a worker died."),
    "exits": ("sys.exit(0)", 4, "Cannot be used: "),
    "skips": ("pytest.skip('not today', allow_module_level=True)", 4, "Cannot be used: "),
    "raises": ("1 / 0", 4, "ZeroDivisionError"),
    "hangs": ("time.sleep(1000)", 4, "took longer than 3 s"),
    "can't be called": ("Block = 3", 4, "can't be called"),
    "isn't there": ("Blok = Block; del Block", 4, "Did you mean: flowref check target.py:Blok"),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPORTS)
def test_a_module_that(what: str, check: Check) -> None:
    source, code, sentence = IMPORTS[what]

    ended = check("\n" + source, "--call-timeout", "3")

    assert (ended.code, True) == (code, sentence in ended.last), ended.out


def test_its_own_process_is_no_way_out(check: Check) -> None:
    ended = check("os._exit(0)", workers="0")

    assert (ended.code, "No verdict: a worker died.") == (3, ended.last[:26]), ended.out


def test_the_users_pytest_does_not_interfere(check: Check, tmp_path: Path) -> None:
    """A conftest that excuses everything, settings that select nothing, and a module named like one of Python's."""
    (tmp_path / "conftest.py").write_text("raise SystemExit(0)")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    (tmp_path / "random.py").write_text("raise SystemExit(0)")
    source = """
        class Block(Block):
            def forward(self, *a, **k):
                (y,), j = super().forward(*a, **k)
                return (y + 1,), j
        """

    assert check(source).code == 1
