"""How a name becomes a target, and what is said where it doesn't: what was given, what there is, what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flowref.cases import Recipe
from flowref.fast import AllInOneBlock
from flowref.spec import Dialect
from flowref.targets import Module, TargetError, resolve

BLOCK = "from flowref.fast import AllInOneBlock\nclass Block(AllInOneBlock):\n    pass\n"
OBJECT = """
from flowref.targets import Module
from flowref.fast import AllInOneBlock
class Own(Module):
    pass
mine = Own(AllInOneBlock, dialect="documented")
class Bare:
    not_claimed = {claims}
    def build(self, *args): ...
    def load(self, *args): ...
    def run(self, *args): ...
bare = Bare()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys.modules["flowref.targets.resolve"], "_folders", [])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def said(text: str) -> str:
    with pytest.raises(TargetError) as refused:
        resolve(text)
    return str(refused.value)


def test_an_installed_module() -> None:
    target = resolve("flowref.fast:AllInOneBlock")
    assert isinstance(target, Module)
    assert (target.make, target.name) == (AllInOneBlock, "flowref.fast:AllInOneBlock")


@pytest.mark.parametrize("text", ["my_flow:Block", "my_flow.py:Block", "./my_flow.py:Block"])
def test_a_module_or_file_of_the_current_folder(folder: Path, text: str) -> None:
    (folder / "my_flow.py").write_text(BLOCK)

    target = resolve(text, "freia-main")

    spec = Recipe(dialect=Dialect.FREIA_MAIN).case().spec
    assert (target.name, target.dialect) == (text, Dialect.FREIA_MAIN)
    assert isinstance(target.build(spec, torch.nn.Linear, torch.float64, "cpu"), AllInOneBlock)


def test_a_file_is_executed_once_for_all_its_names(folder: Path) -> None:
    (folder / "my_flow.py").write_text(BLOCK + "Other = Block\n")
    assert resolve("my_flow.py:Block").make is resolve(f"{folder}/my_flow.py:Other").make


def test_a_name_inside_a_class(folder: Path) -> None:
    (folder / "my_flow.py").write_text(BLOCK + "class Zoo:\n    Block = Block\n")
    assert resolve("my_flow.py:Zoo.Block").make is resolve("my_flow.py:Block").make
    assert said("my_flow.py:Zoo.Lion") == "no target my_flow.py:Zoo.Lion: Zoo has no Lion."


def test_what_a_target_imports_from_its_folder_is_found_also_later(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "early.py").write_text("")
    (folder / "sub" / "late.py").write_text("")
    (folder / "sub" / "my_flow.py").write_text("import early\ndef make(**flags):\n    import late\n    return late\n")
    assert resolve("sub/my_flow.py:make").make().__name__ == "late"


def test_each_file_gets_its_own_neighbours(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "layers.py").write_text(f"NAME = {name!r}\n")
        (folder / name / "my_flow.py").write_text("from layers import NAME\ndef make(**flags):\n    return NAME\n")
    assert [resolve(f"{name}/my_flow.py:make").make() for name in ("one", "two", "one")] == ["one", "two", "one"]


def test_a_neighbour_of_the_target_takes_nobodys_place(folder: Path) -> None:
    """Not of a module that is installed and not yet imported, either."""
    (folder / "this.py").write_text("raise RuntimeError('mine')\n")
    (folder / "my_flow.py").write_text("import this\n" + BLOCK)
    assert resolve("my_flow.py:Block").make.__name__ == "Block"


def test_an_object_keeps_what_it_states_under_the_name_that_was_given(folder: Path) -> None:
    (folder / "my_flow.py").write_text(OBJECT.format(claims=()))
    target = resolve("my_flow:mine")
    assert (target.name, target.dialect) == ("my_flow:mine", Dialect.DOCUMENTED)
    assert resolve("my_flow:mine", Dialect.ANOMALIB).dialect is Dialect.ANOMALIB
    assert "no target my_flow:Own: Own is a class of targets. Name an object made of it." == said("my_flow:Own")


def test_an_object_without_state_says_so(folder: Path) -> None:
    (folder / "silent.py").write_text(OBJECT.format(claims=()))
    (folder / "honest.py").write_text(OBJECT.format(claims=("state", "gradient")))
    assert "silent.py:bare has no state(block): write it, or state not_claimed={'state', 'gradient'}" in said(
        "silent.py:bare"
    )
    assert resolve("honest.py:bare").state(None) == {}


@pytest.mark.parametrize(
    "text", ["my_flow", "Block", ":Block", "my_flow:", "my_flow:a-b", "my flow:Block", "a/b:Block"]
)
def test_the_form_of_a_name(text: str) -> None:
    assert f"{text!r} names no target: need MODULE:ATTR or path/to/file.py:ATTR" in said(text)
    assert "Did you mean my_flow:Block?" in said("my_flow.Block")


def test_a_name_that_the_module_does_not_have(folder: Path) -> None:
    (folder / "my_flow.py").write_text(BLOCK + "def make_block(**flags):\n    return Block(**flags)\n")
    assert said("my_flow:Blok") == (
        "no target my_flow:Blok: module my_flow (./my_flow.py) has Block, make_block. "
        "Did you mean: flowref check my_flow:Block"
    )
    assert said("my_flow.py:Blok") == (
        "no target my_flow.py:Blok: file my_flow.py has Block, make_block. Did you mean: flowref check my_flow.py:Block"
    )


def test_a_module_without_anything_to_call(folder: Path) -> None:
    (folder / "my_flow.py").write_text("size = 3\n")
    assert said("my_flow.py:Block") == "no target my_flow.py:Block: file my_flow.py has nothing that can be called."
    assert "size is of type int and can't be called. Name a class with the documented constructor" in said(
        "my_flow.py:size"
    )


def test_a_module_that_is_not_there(folder: Path) -> None:
    (folder / "my_flow.py").write_text(BLOCK)
    assert said("my_flo:Block") == (
        f"no target my_flo:Block: there is no module my_flo, neither installed nor in {folder}. "
        "Did you mean: flowref check my_flow:Block"
    )
    assert said("flowref.targets.freja:AllInOneBlock").endswith(
        "Did you mean: flowref check flowref.targets.freia:AllInOneBlock"
    )
    assert "math is a module, not a package, so there is no math.flow." in said("math.flow:Block")


def test_a_file_that_is_not_there(folder: Path) -> None:
    (folder / "my_flow.py").write_text(BLOCK)
    assert said("my_flo.py:Block") == (
        "no target my_flo.py:Block: there is no file my_flo.py; the folder . has my_flow.py. "
        "Did you mean: flowref check my_flow.py:Block"
    )
    assert "there are no Python files in none" in said("none/my_flow.py:Block")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_thing\n", "raised ModuleNotFoundError: No module named 'no_such_thing' (my_flow.py, line 1:"),
        ("x = 1\nx.y\n", "raised AttributeError: 'int' object has no attribute 'y' (my_flow.py, line 2: x.y)"),
        ("def f(:\n", "raised SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\n", "raised SystemExit: 0 (my_flow.py, line 2: sys.exit(0))"),
        ("raise KeyboardInterrupt\n", "raised KeyboardInterrupt (my_flow.py, line 1"),
        ("raise GeneratorExit\n", "raised GeneratorExit"),
        ("import pytest\npytest.skip('no', allow_module_level=True)\n", "Skipped"),
        ("class Gone(BaseException): ...\nraise Gone('away')\n", "Gone: away"),
    ],
)
@pytest.mark.parametrize("place", ["my_flow", "my_flow.py"])
def test_an_import_that_fails(folder: Path, place: str, source: str, why: str) -> None:
    """Also where it tries to leave: the reason and the line."""
    (folder / "my_flow.py").write_text(source)
    text = said(f"{place}:Block")
    assert text.startswith(f"no target {place}:Block: importing ")
    assert why in text


@pytest.mark.parametrize("library", ["freia", "anomalib"])
def test_a_missing_library_says_how_to_install_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "FrEIA"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "FrEIA", None)
    for name in ("", "_block"):
        monkeypatch.delitem(sys.modules, f"flowref.targets.{library}{name}", raising=False)

    text = said(f"flowref.targets.{library}:AllInOneBlock")

    assert "which can't be imported" in text
    assert text.endswith("Install: pip install scipy && pip install --no-deps anomalib==2.7.0 FrEIA==0.2")


def test_anomalib_is_not_imported_for_its_block() -> None:
    pytest.importorskip("FrEIA")
    block: Any = resolve("flowref.targets.anomalib:AllInOneBlock")
    assert Path(sys.modules[block.make.__module__].__file__ or "").parts[-5:-1] == (
        "anomalib",
        "models",
        "components",
        "flow",
    )
    assert "anomalib" not in sys.modules
