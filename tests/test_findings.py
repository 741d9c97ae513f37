"""Pages of docs/findings: the code runs, prints what the page shows, and each known failure has its page.

A page names its blocks; its code is run on each of them that is installed, by another import line.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from flowref.gate import known
from flowref.laws import registry
from flowref.laws.run import LawBroken, hold_case
from flowref.targets import Target, TargetError, resolve

ROOT = Path(__file__).parents[1]
PAGES = [path for path in sorted((ROOT / "docs" / "findings").glob("*.md")) if path.name != "README.md"]
IMPORT = "from FrEIA.modules import AllInOneBlock"


@dataclass(frozen=True)
class Block:
    """A public block: its name on the pages, the module that has it, its dialect and file of known failures."""

    name: str
    module: str
    dialect: str
    file: str

    def target(self) -> Target:
        """The block as a target, skipped where it is not what is installed."""
        pytest.importorskip("scipy", reason="scipy is not installed, which both libraries ask for")
        try:
            target = resolve(f"{self.module}:AllInOneBlock", self.dialect)  # type: ignore[arg-type]
        except TargetError as error:
            pytest.skip(f"{self.name} is not installed: {error}")
        if self.file.startswith("freia") and installed_freia() != self.name:
            pytest.skip(f"{self.name} is not installed, but {installed_freia()}")
        return target


FREIA, MAIN = "FrEIA 0.2", "FrEIA main (4212496)"
BLOCKS = (
    Block(FREIA, "flowref.targets.freia", "anomalib", "freia.toml"),
    Block(MAIN, "flowref.targets.freia", "freia-main", "freia-main.toml"),
    Block("anomalib 2.7.0", "flowref.targets.anomalib", "anomalib", "anomalib.toml"),
)


@cache
def installed_freia() -> str:
    """Both call themselves 0.2: the main branch stores hard permutations as index vectors."""
    block: Any = resolve("flowref.targets.freia:AllInOneBlock").make([(2,)], subnet_constructor=torch.nn.Linear)  # type: ignore[attr-defined]
    return FREIA if block.w_perm.is_floating_point() else MAIN


def cell(page: Path, name: str) -> str:
    """What the page's table says under this name."""
    found = re.search(rf"^\| {name} \| (.*) \|$", page.read_text(encoding="utf-8"), re.M)
    assert found, f"{page.name} has no line {name} in its table"
    return found[1]


def blocks_of(page: Path) -> list[Block]:
    found = [block for block in BLOCKS if block.name in cell(page, "Blocks").split(", ")]
    assert len(found) == len(cell(page, "Blocks").split(", ")), f"{page.name} names a block that is unknown"
    return found


def laws_of(page: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", cell(page, "Law"))


def entries(block: Block) -> list[known.Known]:
    return known.read(ROOT / "flowref" / "targets" / "known" / block.file)


def page_of(entry: known.Known) -> str:
    """The page that the entry's reason names."""
    found = re.search(r"\(docs/findings/([\w-]+\.md)\)$", entry.reason)
    assert found, f"{entry.law}: the reason names no page: {entry.reason}"
    return found[1]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's about logarithms of 0
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("page", "block"),
    [pytest.param(page, block, id=f"{page.stem}-{block.file[:-5]}") for page in PAGES for block in blocks_of(page)],
)
def test_the_code_prints_what_the_page_shows(page: Path, block: Block) -> None:
    block.target()
    fences = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    (code,) = [text for kind, _, text in fences if kind == "python"]
    shown = [text for kind, names, text in fences if kind == "text" and named(block, names)]
    assert IMPORT in code and "flowref" not in code

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace(IMPORT, f"from {block.module} import AllInOneBlock"), str(page), "exec"), {})

    assert shown == [printed.getvalue()]


def named(block: Block, names: str) -> bool:
    """Whether an output is this block's: it names none, or the block by the beginning of its name."""
    return not names or any(block.name.startswith(name) for name in names.split(", "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_all_that_a_report_needs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    law_ids = {law.id for law in registry.all()}

    assert re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)[1:] == ["Reproduce", "Mend"]
    assert laws_of(page) and set(laws_of(page)) <= law_ids
    assert re.search(r"\b[0-9a-f]{7} \(20\d\d-\d\d-\d\d\)|\bv\d+\.\d+", cell(page, "Since"))
    assert "```diff\n" in text


def test_the_index_lists_each_page() -> None:
    index = (ROOT / "docs" / "findings" / "README.md").read_text(encoding="utf-8")
    rows = {row[1]: (row[0], row[2].split("|")) for row in re.findall(r"^\| \[(.*?)\]\((.*?)\) \|(.*)\|$", index, re.M)}

    assert set(rows) == {page.name for page in PAGES}
    for page in PAGES:
        title, cells = rows[page.name]
        assert page.read_text(encoding="utf-8").startswith(f"# {title}\n")
        assert [bool(cell.strip()) for cell in cells[:3]] == [block in blocks_of(page) for block in BLOCKS]
        assert cells[3].strip() == cell(page, "Law")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.file[:-5])
def test_known_failures_and_pages_tell_of_the_same(block: Block) -> None:
    """Each entry names the page that tells of its law and block; each page of a block has an entry."""
    pages = {page.name: page for page in PAGES}
    found = {(page_of(entry), entry.law) for entry in entries(block)}

    assert {page for page, _ in found} == {page.name for page in PAGES if block in blocks_of(page)}
    assert [(page, law) for page, law in found if law not in laws_of(pages[page])] == []


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.file[:-5])
def test_the_stored_case_of_each_known_failure_still_fails(block: Block) -> None:
    target, holds = block.target(), []
    for entry in entries(block):
        (law,) = registry.find(entry.law)
        case = entry.stored(block.dialect)
        assert case is not None, f"{entry.law} stores no case"
        for direction in [entry.direction] if entry.direction else law.directions:
            with contextlib.suppress(LawBroken):
                hold_case(law, case, target, entry.precision or (law.precisions or ("float32",))[0], direction)
                holds.append(f"{entry.law} {direction} {entry.where}")

    assert holds == []
