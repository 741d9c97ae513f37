"""Known failures: read strictly; inside `where` a law must still fail, outside it must hold."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from flowref.gate import known, plan
from flowref.gate.hold import Judge
from flowref.gate.options import Settings, Unusable

REFUSED = {
    'law = "logdet.equals-referense"\nreason = "r"': "law='logdet.equals-referense' is unknown. Did you mean logdet.",
    'law = "logdet.equals-reference"': "reason=None is no text. Each entry needs a law and a reason.",
    'law = "logdet.equals-reference"\nreason = "r"\nwhere = "gin"': "where='gin' is no list of regimes.",
    'law = "logdet.equals-reference"\nreason = "r"\nwhere = ["gim"]': "where='gim' is unknown. Did you mean gin?",
    'law = "logdet.equals-reference"\nreason = "r"\nwere = ["gin"]': "the key 'were' is unknown. Did you mean where?",
    'law = "logdet.equals-reference"\nreason = "r"\nprecision = "fp32"': "precision='fp32' is unknown.",
    'law = "logdet.equals-reference"\nreason = "r"\ndirection = "revers"': "Did you mean reverse?",
    'law = "logdet.equals-reference"\nreason = "r"\ncase = { D = 1 }': "the key 'D' is unknown.",
    'law = "logdet.equals-reference"\nreason = "r"\ncase = { C = 0 }': "is no case: C=0 is outside its range",
    'law = "logdet.equals-reference"\nreason = "r"\ncase = "gone.json"': "is no case: ",
    'law = "logdet.equals-reference"\nreason = "r"\nwhere = ["gin"]\ncase = { C = 3 }': "outside where=['gin']",
}


@pytest.mark.parametrize("entry", REFUSED)
def test_refused(entry: str, tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    file.write_text(f"[[known]]\n{entry}\n")

    with pytest.raises(Unusable) as refused:
        known.read(file)

    assert f"{file}, entry 1" in str(refused.value)
    assert REFUSED[entry] in str(refused.value)


def test_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "known.toml"
    file.write_text("known = what")

    with pytest.raises(Unusable, match="cannot be read as TOML"):
        known.read(file)


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Judge one law on a block with faults: `judged(where the log-det is off, entries of the known failures)`."""
    before = signal.getsignal(signal.SIGINT)

    def run(wrong: str, *entries: str, law: str = "logdet.equals-reference") -> dict[str, Any]:
        block = tmp_path / f"block_{crc32(wrong.encode())}.py"
        block.write_text(BLOCK.format(wrong=wrong))
        file = tmp_path / "known.toml"
        file.write_text("\n".join(f'[[known]]\nlaw = "{law}"\nreason = "it is so"\n{e}' for e in entries))
        options: dict[str, Any] = {"profile": "smoke", "precisions": ("float64",), "laws": (law,), "device": "cpu"}
        settings = Settings((f"{block}:Block",), **options, known_failures=file, report=tmp_path / "report")
        return Judge(settings).judge(plan.items(settings)[0])

    yield run
    signal.signal(signal.SIGINT, before)


BLOCK = """
from flowref.fast import AllInOneBlock

class Block(AllInOneBlock):
    def __init__(self, *args, **flags):
        super().__init__(*args, **flags)
        self.flags = flags

    def forward(self, x, c=None, rev=False, jac=True):
        (y,), j = super().forward(x, c, rev, jac)
        gin, soft = self.flags["gin_block"], self.flags["permute_soft"]
        return (y,), j + 1.0 * ({wrong})
"""
GIN, SOFT = 'where = ["gin"]', 'where = ["soft"]'


@pytest.mark.parametrize(
    ("wrong", "entries", "status"),
    [
        ("False", (), "held"),
        ("gin", (), "broken"),
        ("gin", (GIN,), "known"),
        ("gin", (GIN + "\ncase = { gin = true, C = 3 }",), "known"),
        ("gin", (GIN + '\nprecision = "float32"',), "broken"),
        ("gin", ('where = ["gin", "soft"]',), "broken"),
        ("True", ("",), "known"),
        ("gin or soft", (GIN,), "broken"),
        ("gin or soft", (GIN, SOFT), "known"),
        ("gin and soft", ('where = ["gin", "soft"]',), "known"),
        ("False", (GIN,), "gone"),
        ("gin", (GIN, SOFT + "\ndirection = 'reverse'"), "known"),
        ("False", ("",), "gone"),
    ],
)
def test_a_known_failure_hides_nothing_else(
    judged: Callable[..., dict[str, Any]], wrong: str, entries: tuple[str, ...], status: str
) -> None:
    assert judged(wrong, *entries)["status"] == status


def test_a_second_fault_is_found_outside(judged: Callable[..., dict[str, Any]]) -> None:
    record = judged("gin or soft", GIN)

    assert "gin=True" not in record["failure"]["recipe"]
    assert "soft=True" in record["failure"]["recipe"]


def test_an_edge_that_fails_is_one_finding(judged: Callable[..., dict[str, Any]]) -> None:
    """Its gatekeeper is broken, and known; other laws report the edge as not judged, and hold elsewhere."""
    guard = judged("1 / len(x[0])", 'where = ["batch-0"]', law="shape.answers-at-batch-0")
    other = judged("0 / len(x[0])", law="logdet.equals-reference")

    assert guard["status"] == "known"
    assert (other["status"], other["not_judged"]) == ("held", ["batch-0"])
