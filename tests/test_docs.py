"""The docs: printed parts are fresh, code runs, and what the code refers to is there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from flowref.gate import known
from flowref.laws import registry

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.S | re.M)
# Places of the code that name a page, and maybe a section: docs/block.md, accuracy; docs/block.md, section 6.
REFERENCE = re.compile(r"docs/(\w+\.md)(?:, (section \d|accuracy|legal|purity|refused)\b)?", re.I)


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def headings(page: Path) -> list[str]:
    """The headings of a page, without what stands in code."""
    return re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)


def anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def sources() -> list[Path]:
    return [path for folder in ("flowref", "properties", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_printed_parts_are_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert (generate.main(["--check"]), capsys.readouterr().err) == (0, "")


def test_a_stale_page_is_named(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "laws.md").write_text("old", encoding="utf-8")
    (tmp_path / "gate.md").write_text((ROOT / "docs" / "gate.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(generate, "DOCS", tmp_path)

    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/laws.md is stale. Run: python docs/generate.py\n"
    assert (generate.main([]), generate.main(["--check"])) == (0, 0)


def test_each_law_has_its_place(generate: ModuleType) -> None:
    page = generate.laws_page()

    assert all(f"\n### {law.id}\n" in page and law.formula in page for law in registry.all())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_runnable_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks marked ``python runnable``, one after another, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "docs"}

    for words, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if words.split() == ["python", "runnable"]:
            exec(compile(code, str(page), "exec"), space)


def test_known_failures_are_written_as_shown(tmp_path: Path) -> None:
    """The file in docs/gate.md is one that the gate accepts."""
    blocks = dict(FENCE.findall((ROOT / "docs" / "gate.md").read_text(encoding="utf-8")))
    (tmp_path / "known.toml").write_text(blocks["toml"], encoding="utf-8")

    entries = known.read(tmp_path / "known.toml")

    assert [entry.law for entry in entries] == ["shape.answers-at-batch-0", "gradient.by-subnet"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))

    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_opens_with_what_it_answers(page: Path) -> None:
    if page.parent.name == "docs":
        assert page.read_text(encoding="utf-8").split("\n\n")[1].startswith("This page answers: ")


def test_pages_and_sections_that_code_refers_to_exist() -> None:
    found = [(path, *match) for path in sources() for match in REFERENCE.findall(path.read_text(encoding="utf-8"))]
    assert found

    for path, name, section in found:
        page = ROOT / "docs" / name
        assert page.exists(), f"{path} refers to docs/{name}"
        names = [heading.lower() for heading in headings(page)]
        wanted = section.lower().replace("section ", "")
        assert not section or any(n == wanted or n.startswith(f"{wanted}. ") for n in names), f"{path}: {section}"


def test_sections_that_laws_cite_exist() -> None:
    numbers = {heading.partition(".")[0] for heading in headings(ROOT / "docs" / "block.md")}

    for law in registry.all():
        assert set(re.findall(r"\d+", law.text["Spec"])) <= numbers, law.id


def test_tables_keep_their_columns() -> None:
    """A bar inside a cell would cut it in two."""
    for page in PAGES:
        lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
        for one, other in zip(lines, lines[1:], strict=False):
            if one.startswith("|") and other.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", one)) == len(re.findall(r"(?<!\\)\|", other)), other
