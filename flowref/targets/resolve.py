"""How a name on the command line becomes a target.

    MODULE:ATTR         a module that Python can import, also one in the current folder
    path/file.py:ATTR   a file, loaded under a name of its own

ATTR may have dots. It is a class or callable with the documented constructor, or a Target object.

The folder of a file, or the current folder, is put at the *end* of sys.path and stays there, so that what the target
imports from its own folder is found, also later, inside a function; and so that nothing there can take the place of
anything installed: a `random.py` beside a target must not become everybody's `random`. Of two files from different
folders each gets its own neighbours, whatever their names.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from flowref.spec import Dialect
from flowref.targets.module import Module
from flowref.targets.protocol import (
    NOT_CLAIMED_BY_OTHERS,
    Target,
    TargetError,
    stated_dialect,
    stated_not_claimed,
    stated_precision,
)

FORMS = "MODULE:ATTR or path/to/file.py:ATTR"
PRIVATE = "_flowref_target_"  # how the modules of files are named
_folders: list[str] = []  # put on sys.path by us, the latest first


def resolve(text: str, dialect: Dialect | str | None = None) -> Target:
    """The target of this name, in this dialect, or in the one that it states. Raises TargetError."""
    place, colon, attribute = text.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in attribute.split(".")):
        raise TargetError(f"{text!r} names no target: need {FORMS}.{_suggested(text)}")
    module = _from_file(text, Path(place)) if place.endswith(".py") else _from_module(text, place)
    found: Any = module
    for depth, name in enumerate(attribute.split(".")):
        found = _attribute(text, found, name, place, module if depth == 0 else None)
    if _is_target(found):
        if isinstance(found, type):
            raise TargetError(f"no target {text}: {attribute} is a class of targets. Name an object made of it.")
        return Given(text, found, dialect)
    if not callable(found):
        raise TargetError(
            f"no target {text}: {attribute} is of type {type(found).__name__} and can't be called. "
            f"Name a class with the documented constructor, or an object with build, load and run."
            f"{_proposal(place, attribute, _callables(module))}"
        )
    return Module(found, name=text, dialect=dialect)


class Given:
    """A user's own Target object, under the name and in the dialect that the user gave; what it states is checked."""

    def __init__(self, name: str, target: Any, dialect: Dialect | str | None = None) -> None:
        self._target = target
        self.name = name
        self.dialect = stated_dialect(name, dialect or getattr(target, "dialect", Dialect.ANOMALIB))
        self.precision = stated_precision(name, getattr(target, "precision", "ieee"))
        self.not_claimed = stated_not_claimed(name, getattr(target, "not_claimed", ()), NOT_CLAIMED_BY_OTHERS)
        if not callable(getattr(target, "state", None)):
            # Gradients by parameters are read off the state.
            if not {"state", "gradient"} <= self.not_claimed:
                raise TargetError(
                    f"{name} has no state(block): write it, or state not_claimed={{'state', 'gradient'}}."
                )
            self.state = _no_state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _no_state(block: Any) -> dict[str, Tensor]:
    return {}


def load_file(path: Path, name: str) -> ModuleType:
    """Execute a file as the module of this name, once. Raises what the file raises."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a path ending in .py has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# Finding the module


def _from_file(text: str, path: Path) -> ModuleType:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        close = get_close_matches(path.name, near, n=1)
        hint = f" Did you mean: flowref check {path.parent / close[0]}:{text.rpartition(':')[2]}" if close else ""
        where = f"the folder {path.parent} has {_few(near)}" if near else f"there are no Python files in {path.parent}"
        raise TargetError(f"no target {text}: there is no file {path}; {where}.{hint}")
    path = path.resolve()
    name = f"{PRIVATE}{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    _reach(path.parent)
    return _imported(text, str(path), lambda: load_file(path, name))


def _from_module(text: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{text!r} names no target: need {FORMS}.{_suggested(text)}")
    _reach(Path.cwd())
    return _imported(text, name, lambda: importlib.import_module(name))


def _reach(folder: Path) -> None:
    """Put the folder behind all that is installed, before the folders of earlier targets, whose modules make way."""
    place = str(folder)
    importlib.invalidate_caches()  # a file may have been written since Python last looked
    if place in sys.path and place not in _folders:
        return  # reachable without us
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        of_another = any(Path(other) in Path(file).parents for other in _folders if other != place)
        top = name.partition(".")[0]
        if of_another and not name.startswith(PRIVATE) and any((folder / n).exists() for n in (top, f"{top}.py")):
            del sys.modules[name]
    if place in _folders:
        _folders.remove(place)
        sys.path.remove(place)
    at = min((sys.path.index(other) for other in _folders), default=len(sys.path))
    sys.path.insert(at, place)
    _folders.insert(0, place)


def _imported(text: str, what: str, load: Callable[[], ModuleType]) -> ModuleType:
    """The module. Whatever its import raises becomes a TargetError, exits included; only our own time limit passes."""
    try:
        return load()
    except TargetError:
        raise
    except BaseException as error:
        if type(error).__module__.startswith("flowref.gate"):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{what}.".startswith(f"{error.name}."):
            raise TargetError(_no_module(text, what, error.name)) from None
        said = traceback.format_exception_only(error)[-1].strip()
        raise TargetError(f"no target {text}: importing {what} raised {said}{_line(error)}") from error


def _line(error: BaseException) -> str:
    """Where an import went wrong: file, line and text of the innermost frame outside the import system."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in ("", __file__) and f.line]
    frames = [f for f in frames if "importlib" not in f.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _no_module(text: str, name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    path = list(sys.modules[parent].__path__) if parent and hasattr(sys.modules.get(parent), "__path__") else None
    if parent and path is None:
        return f"no target {text}: {parent} is a module, not a package, so there is no {missing}."
    near = get_close_matches(last, [m.name for m in pkgutil.iter_modules(path)], n=1)
    attribute = text.rpartition(":")[2]
    whole = f"{parent}.{near[0]}" if near and parent else "".join(near)
    hint = f" Did you mean: flowref check {whole}{name[len(missing) :]}:{attribute}" if near else ""
    if Path(f"{name}.py").exists() or Path(name).with_suffix(".py").exists():
        hint = f" Did you mean: flowref check {name}.py:{attribute}"
    return f"no target {text}: there is no module {missing}, neither installed nor in {Path.cwd()}.{hint}"


# Finding the attribute


def _attribute(text: str, owner: Any, name: str, place: str, module: ModuleType | None) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    if module is None:
        raise TargetError(f"no target {text}: {_named(owner)} has no {name}.")
    names = _callables(module)
    kind = "file" if place.endswith(".py") else "module"
    file = "" if kind == "file" else _short(getattr(module, "__file__", None))
    raise TargetError(f"no target {text}: {kind} {place}{file} has {_few(names)}.{_proposal(place, name, names)}")


def _callables(module: ModuleType) -> list[str]:
    """What could be meant: public callables and targets, those that the module defines before those that it imports."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = {n: getattr(module, n, None) for n in names}
    usable = [n for n, v in found.items() if callable(v) or _is_target(v)]
    own = [n for n in usable if getattr(found[n], "__module__", module.__name__) == module.__name__]
    return own or usable


def _is_target(value: object) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("build", "load", "run"))


# Wording


def _proposal(place: str, name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.5) or (names if len(names) == 1 else [])
    return f" Did you mean: flowref check {place}:{close[0]}" if close else ""


def _suggested(text: str) -> str:
    """For a name without an attribute, or with one that is none."""
    place = text.partition(":")[0] or "my_flow"
    module, dot, name = place.rpartition(".")
    if dot and name[:1].isupper():  # a class behind a dot
        return f" Did you mean {module}:{name}?"
    return f" Give for example {place}:AllInOneBlock."


def _few(names: Sequence[str]) -> str:
    if not names:
        return "nothing that can be called"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _named(owner: object) -> str:
    return str(getattr(owner, "__qualname__", type(owner).__qualname__))


def _short(file: str | None) -> str:
    """The file of a module, from the current folder where it lies in it."""
    if not file:
        return ""
    path = Path(file)
    return f" (./{path.relative_to(Path.cwd())})" if path.is_relative_to(Path.cwd()) else f" ({path})"
