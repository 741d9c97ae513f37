"""Parts that held are not judged again, unless anything that their verdict depends on has changed."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from flowref.fast import AllInOneBlock
from flowref.gate import check, finished
from flowref.gate.evidence import Evidence
from flowref.gate.hold import Judge
from flowref.gate.options import Settings
from flowref.gate.plan import Item
from flowref.gate.progress import Lines
from flowref.laws import registry
from flowref.laws.run import Run
from flowref.targets import Module

SOURCE = "from flowref.fast import AllInOneBlock\nclass Block(AllInOneBlock):\n    '''{}'''\n"
EARLIER = "held in an earlier run"


def short(run: Run) -> None:
    """A law in parts that costs one pass."""
    run.near(run.want.logdet, run.answer.logdet, "the log-det")


class Mute:
    """A canary that costs nothing."""

    def changed(self) -> None:
        """Nothing was."""


LAW = replace(registry.find("clamp.exhaustive-float32")[0], body=short, parts=3)


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`judge(part)` -> record, as a process of its own would judge it."""
    before, loaded = signal.getsignal(signal.SIGINT), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flowref.gate.hold.Canary", Mute)
    Path("block.py").write_text(SOURCE.format("one"))

    def run(part: int = 0, dialect: str = "anomalib", law: registry.Law = LAW) -> Any:
        judge = Judge(Settings(("block.py:Block",), dialect, device="cpu"))
        try:
            return judge.judge(Item("block.py:Block", law, "forward", "float32", "cpu", part=part))
        finally:
            for name in set(sys.modules) - loaded:
                if "block" in name:
                    del sys.modules[name]

    run(2)  # what is imported on the way is there from now on, as it is not in a new process
    shutil.rmtree(finished.FILE.parent)
    yield run
    signal.signal(signal.SIGINT, before)


def test_a_part_that_held_is_not_judged_again(judge: Any) -> None:
    first, again, other = judge(0), judge(0), judge(1)

    assert [record["reason"] for record in (first, again, other)] == ["", EARLIER, ""]
    assert {record["status"] for record in (first, again, other)} == {"held"}
    same = ("cases", "cases_digest", "ratio")
    assert [again[key] for key in same] == [first[key] for key in same]


def test_parts_are_different_cases(judge: Any) -> None:
    assert judge(0)["cases_digest"] != judge(1)["cases_digest"]


def test_another_target_of_the_same_name_is_judged(judge: Any) -> None:
    judge()
    Path("block.py").write_text(SOURCE.format("two"))

    assert judge()["reason"] == ""


def test_another_module_is_another_flowref_or_torch(
    judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are modules that are loaded, so one that changes stands for them."""
    monkeypatch.setitem(sys.modules, "some_module", type(sys)("some_module"))
    file = tmp_path / "some_module.py"
    sys.modules["some_module"].__file__ = str(file)
    file.write_text("one")
    judge()
    file.write_text("two")

    assert judge()["reason"] == ""


def test_a_file_of_the_package_that_is_not_loaded_yet_counts(
    judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = type(sys)("flowref")
    package.__path__ = [str(tmp_path / "package")]
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "lazy.py").write_text("one")
    item, target = Item("flowref.fast:AllInOneBlock", LAW, "forward", "float32", "cpu", part=0), Module(AllInOneBlock)
    monkeypatch.setitem(sys.modules, "flowref", package)
    one = finished.Finished()._key(item, target)
    (tmp_path / "package" / "lazy.py").write_text("two")

    assert finished.Finished()._key(item, target) != one


def test_another_build_of_torch_or_dialect_is_judged(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge()
    assert judge(dialect="documented")["reason"] == ""

    monkeypatch.setattr(torch.__config__, "show", lambda: "another")
    assert judge()["reason"] == ""


def test_a_part_that_broke_is_not_kept(judge: Any) -> None:
    def broken(run: Run) -> None:
        run.equal(1, 2, "a count")

    assert judge(law=replace(LAW, body=broken))["status"] == "broken"
    assert not finished.FILE.exists()
    assert judge()["reason"] == ""


def test_a_file_cut_short_or_of_someone_else_s_loses_its_lines_only(judge: Any) -> None:
    judge(0)
    good = finished.FILE.read_text()
    finished.FILE.write_text(f'{good[: len(good) // 2]}\n[1]\n{{"key": 1}}\n\x00\n{good}')

    assert (judge(0)["reason"], judge(1)["reason"]) == (EARLIER, "")


def test_a_law_without_parts_is_never_kept(judge: Any) -> None:
    law = replace(LAW, parts=0)

    assert judge(None, law=law)["status"] == judge(None, law=law)["status"] == "held"
    assert not finished.FILE.exists()


def test_a_folder_that_cannot_be_written_costs_no_verdict(judge: Any) -> None:
    Path(".flowref").write_text("a file")

    assert judge()["status"] == "held"


def test_the_file_is_named_on_screen_once(capsys: pytest.CaptureFixture[str]) -> None:
    evidence, show = Evidence(), Lines(Console(width=80))
    evidence.add(json.loads('{"kind": "header", "plan": ["a"], "kept": "/here/finished.ndjson"}'))
    for seconds in (0.0, 9.0):
        show(evidence, seconds)

    assert capsys.readouterr().out.count("/here/finished.ndjson") == 1


def test_a_child_that_was_killed_after_ctrl_c_was_interrupted() -> None:
    evidence = Evidence()
    for line in ({"kind": "header", "plan": ["a"]}, {"kind": "problem", "what": "interrupted", "text": "Ctrl-C"}):
        evidence.add(line)
    evidence.add({"kind": "end"})

    assert check._decide(evidence, -9).code == 2


def test_lines_name_the_first_law_as_soon_as_it_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    evidence, show = Evidence(), Lines(Console(width=80))
    show(evidence, 0.0)
    evidence.add({"kind": "header", "plan": ["t::one", "t::two"]})
    evidence.add({"kind": "start", "id": "t::one"})
    show(evidence, 0.1)
    evidence.add({"kind": "record", "id": "t::one"})
    show(evidence, 0.2)
    show(evidence, 0.3)

    said = capsys.readouterr().out.splitlines()

    assert len(said) == 2 and "starting" in said[0] and "1 of 2 judged  one" in said[1]
