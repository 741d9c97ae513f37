"""No tolerance is picked where laws, properties and bounds stand: their syntax trees hold no word or number for one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowref
from flowref.gate.check import properties

PACKAGE = Path(flowref.__file__).parent
PROPERTIES = properties()
FILES = [*sorted((PACKAGE / "laws").glob("*.py")), *sorted(PROPERTIES.glob("*.py")), PACKAGE / "bounds.py"]
WORDS = {
    "rtol",
    "atol",
    "rel_tol",
    "abs_tol",
    "tol",
    "tolerance",
    "eps",
    "allclose",
    "isclose",
    "assert_close",
    "approx",
}
SMALL = 1 / 8  # what a law draws or compares exactly is larger


def found(source: str) -> Iterator[str]:
    """The words and small numbers in a source, each with its line."""
    for node in ast.walk(ast.parse(source)):
        names = {
            ast.Name: ("id",), ast.Attribute: ("attr",), ast.keyword: ("arg",), ast.arg: ("arg",), ast.alias: ("name",),
            ast.FunctionDef: ("name",),
        }.get(type(node), ())  # fmt: skip
        for name in names:
            if str(getattr(node, name)).rpartition(".")[2] in WORDS:
                yield f"line {getattr(node, 'lineno', '?')}: {getattr(node, name)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < abs(node.value) < SMALL:
            yield f"line {node.lineno}: {node.value}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_picked(path: Path) -> None:
    assert list(found(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.allclose(a, b)",
        "from math import isclose",
        "def near(a, b, rtol=0): ...",
        "close(a, b, atol=bound)",
        "error <= 1e-5",
        "x = pytest.approx(y)",
        "bound = -3e-7 * scale",
    ],
)
def test_the_walk_can_fail(source: str) -> None:
    assert list(found(source))


def test_each_room_is_walked() -> None:
    assert {path.parent.name for path in FILES} == {"laws", "properties", "flowref"}
    assert len(FILES) > 40
