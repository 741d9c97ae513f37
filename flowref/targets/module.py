"""The target made of a class or callable with the documented constructor, such as every public AllInOneBlock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from flowref.spec import BlockSpec, Dialect
from flowref.targets.protocol import (
    NOT_CLAIMED,
    SubnetConstructor,
    TargetError,
    TargetMisbehaved,
    stated_dialect,
    stated_not_claimed,
    stated_precision,
)

ANSWER = "((y,), logdet)"
OMITTED = object()  # stands for an argument that is not given
# The constructor's arguments that are plain values; shapes, subnet and dialect are handed over by hand.
FLAGS = tuple(f.name for f in fields(BlockSpec) if f.name not in ("dims", "dims_c", "dialect"))
ARGUMENTS = ("dims_in", "dims_c", "subnet_constructor", *FLAGS)


class Module:
    """A class or callable ``make(dims_in, dims_c, subnet_constructor, **flags) -> torch.nn.Module`` as a target.

    What isn't given here is what ``make`` states in attributes of these names, else anomalib, ieee, nothing.
    Raises TargetError for a word that is unknown, and for a constructor that can't take the documented arguments.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        name: str | None = None,
        dialect: Dialect | str | None = None,
        precision: str | None = None,
        not_claimed: frozenset[str] | None = None,
    ) -> None:
        self.make = make
        self.name = name or f"{make.__module__}:{getattr(make, '__qualname__', type(make).__qualname__)}"
        self.dialect = stated_dialect(self.name, dialect or _stated(make, "dialect", Dialect.ANOMALIB))
        self.precision = stated_precision(self.name, precision or _stated(make, "precision", "ieee"))
        given = _stated(make, "not_claimed", frozenset()) if not_claimed is None else not_claimed
        self.not_claimed = stated_not_claimed(self.name, given, NOT_CLAIMED)
        takes, rest = _parameters(make)
        missing = [name for name in ARGUMENTS if name not in takes]
        self.optional = tuple(name for name in FLAGS if takes.get(name))
        if missing and not rest:
            raise TargetError(
                f"{self.name} takes {', '.join(takes) or 'no argument by name'}: need {', '.join(missing)} as well, "
                "since all documented arguments are given by name. Add what is missing, or name a function that takes "
                "all and makes the block."
            )
        self._takes_dialect = "dialect" in takes

    def build(self, spec: BlockSpec, subnet: SubnetConstructor, dtype: torch.dtype, device: torch.device | str) -> Any:
        """The block, built as a user builds it, under the caller's default dtype and device, then converted.

        All arguments go by keyword; ``dialect`` only to a constructor that has it, or hands it on to a class that has.
        """
        block = self.construct(spec, subnet)
        if not isinstance(block, nn.Module):
            raise TargetMisbehaved(f"the constructor returned {shown(block)}: need a torch.nn.Module")
        return block.to(device=device, dtype=dtype)

    def construct(self, spec: BlockSpec, subnet: Any, **changed: Any) -> Any:
        """What the constructor gives for these arguments, as it gives it; ``changed`` ones need not be legal."""
        arguments = {name: getattr(spec, name) for name in FLAGS}
        arguments |= {"dims_in": [spec.dims], "dims_c": list(spec.dims_c), "subnet_constructor": subnet}
        if self._takes_dialect:
            arguments["dialect"] = spec.dialect.value
        given = arguments | changed
        return self.make(**{name: value for name, value in given.items() if value is not OMITTED})

    def kernels(self, device: str, precision: str) -> str:
        """How kernels run on this device in this precision, by the word of ``make``, else "unknown"."""
        offered = getattr(self.make, "kernels", None)
        return str(offered(device, precision)) if callable(offered) else "unknown"

    def load(self, block: nn.Module, arrays: Mapping[str, Tensor]) -> None:
        """Load float64 arrays in matrix form, each in the form, dtype and device that the block stores.

        Raises TargetMisbehaved where names or shapes are not those of docs/block.md.
        """
        held = block.state_dict()
        missing, extra = sorted(set(arrays) - set(held)), sorted(set(held) - set(arrays))
        if missing or extra:
            problem = [f"has no {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)}"] * bool(extra)
            raise TargetMisbehaved(f"the block's state {' and '.join(problem)}: need {', '.join(sorted(arrays))}")
        block.load_state_dict({name: _as_held(name, arrays[name], held[name]) for name in arrays}, strict=True)

    def run(self, block: nn.Module, x: Tensor, c: Sequence[Tensor], rev: bool, jac: bool = True) -> tuple[Tensor, Any]:
        """One pass, called as the documentation says. Raises TargetMisbehaved for an answer of another form."""
        answer = self.call(block, (x,), list(c), rev, jac)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise TargetMisbehaved(f"the pass returned {shown(answer)}: need {ANSWER}")
        outputs, logdet = answer
        if not isinstance(outputs, (tuple, list)) or len(outputs) != 1 or not isinstance(outputs[0], Tensor):
            raise TargetMisbehaved(f"the pass returned {shown(outputs)} as its outputs: need {ANSWER}")
        if not isinstance(logdet, Tensor) and (jac or logdet is not None):
            raise TargetMisbehaved(f"the pass returned {shown(logdet)} as its log-det: need {ANSWER}")
        return outputs[0], logdet

    def call(self, block: nn.Module, x: Any, c: Any, rev: Any, jac: Any = True) -> Any:
        """What the block answers to these arguments, as they stand; they need not be legal."""
        return block(x, c, rev=rev, jac=jac)

    def state(self, block: nn.Module) -> dict[str, Tensor]:
        """Live parameters and buffers by name; what is stored under two names is there twice."""
        return dict(block.named_parameters(remove_duplicate=False)) | dict(block.named_buffers(remove_duplicate=False))


def shown(value: object) -> str:
    """What a target gave, in a few words: types, sizes and shapes, one level deep."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(shown(v) if isinstance(v, Tensor) else type(v).__name__ for v in value[:4])
        return f"a {type(value).__name__} of {len(value)}" + (f" ({inner})" if value else "")
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _stated(make: object, name: str, otherwise: Any) -> Any:
    """The attribute of this name. A class that leaves it to its instances (a property) states nothing."""
    value = getattr(make, name, otherwise)
    return otherwise if hasattr(type(value), "__get__") else value


def _parameters(make: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Names that a constructor takes by keyword, each with whether it has a default, and whether it takes any other.

    A class that takes any other, by ``**flags``, hands them on: what the next class takes is among the names.
    """
    own = [vars(one)["__init__"] for one in make.__mro__ if "__init__" in vars(one)] if isinstance(make, type) else []
    names: dict[str, bool] = {}
    for function in (make, *own):
        try:
            found = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # written in C, or hiding its signature
            return names, True
        for p in found:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                names.setdefault(p.name, p.default is not p.empty)
        if all(p.kind is not p.VAR_KEYWORD for p in found):
            return names, function is not make
    return names, True


def _as_held(name: str, value: Tensor, held: object) -> Tensor:
    """The array as the block holds it: a permutation as an index where its entry is one, else the matrix."""
    if not isinstance(held, Tensor):
        raise TargetMisbehaved(f"the block's state holds {shown(held)} as {name}: need a tensor")
    if not held.dtype.is_floating_point and held.ndim == 1 and value.ndim >= 2:
        value = _index(name, value)
    if value.shape != held.shape:
        raise TargetMisbehaved(
            f"the block's state holds {name} in the shape {tuple(held.shape)}: need {tuple(value.shape)}"
        )
    return value.to(held.dtype)


def _index(name: str, matrix: Tensor) -> Tensor:
    """The index vector π of a permutation matrix (C, C, 1…): π(i) is the column of the one in row i."""
    rows = matrix.flatten(1)
    index = rows.argmax(1)
    if not torch.equal(rows, nn.functional.one_hot(index, rows.shape[1]).to(rows.dtype)):
        raise TargetMisbehaved(f"the block holds {name} as an index vector: need a matrix, as W is no permutation here")
    return index
