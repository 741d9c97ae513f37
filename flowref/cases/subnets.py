"""Probe subnets: they record what they were given, and have a gradient by hand and a scalar twin.

    Probe                  the base: recording, and the two names that a reference needs, forward and pullback
    Zero ... Activation    one class a kind: formula, gradient, and the same over scalars of mpmath
    SubnetSpec             which kind, for which sizes: shapes of the parameters, and the module

In all of them x is (B, n, *S), the answer (B, m, *S), m = 2A; m = 0 too. Only operations are used that
`flowref.bounds.Bounded` knows; parameters are plain tensors there. No answer of KINDS is a view of x or of a parameter;
those of KEPT are not the block's to change, and only laws about that draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Scalars = list[list[Any]]  # one sample: channels × pixels (pixels in row-major order)


class Probe(nn.Module):
    """A subnet that keeps the inputs (``seen``, as given) and answers of its calls, until `clear`.

    Copies and pickles carry the parameters, not the recordings.
    """

    def __init__(self, parameters: Mapping[str, Tensor], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.seen: list[Any] = []
        self.answers: list[Any] = []
        for name, value in parameters.items():
            self.hold(name, value.detach().clone())

    def hold(self, name: str, value: Tensor) -> None:
        """Keep a tensor of the state: a parameter."""
        self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Any) -> Any:
        """The answer (B, m, *S) to x (B, n, *S), both recorded."""
        self.seen.append(x)
        self.answers.append(self.answer(x))
        return self.answers[-1]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.seen, self.answers = [], []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "seen": [], "answers": []}

    def answer(self, x: Any) -> Any:
        """The formula, without recording."""
        raise NotImplementedError

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        """Gradient of ``Σ g ⊙ answer(x)`` by x and by each parameter, by hand."""
        raise NotImplementedError

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        """The answer to one sample over scalars of an mpmath context; ``parameters`` as nested lists of them."""
        raise NotImplementedError


class Zero(Probe):
    """a = 0; no parameters."""

    def answer(self, x: Any) -> Any:
        return x.new_zeros((x.shape[0], self.outputs, *x.shape[2:]))

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        return [[ctx.mpf(0)] * len(x[0]) for _ in range(outputs)]


class Constant(Probe):
    """a[b, i, n] = coefficients[i]; its gradient is a sum over batch and pixels."""

    coefficients: Tensor

    def answer(self, x: Any) -> Any:
        return x.new_zeros((x.shape[0], self.outputs, *x.shape[2:])) + _column(self.coefficients, x)

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {"coefficients": _over_pixels(g)}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        return [[value] * len(x[0]) for value in parameters["coefficients"]]


class Linear(Probe):
    """a = weight x + bias at each pixel; weight (m, n), bias (m,)."""

    weight: Tensor
    bias: Tensor

    def answer(self, x: Any) -> Any:
        return _affine(self.weight, self.bias, x)

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return _transposed(self.weight, g), {"weight": _outer(g, x), "bias": _over_pixels(g)}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        return _affine_scalars(parameters["weight"], parameters["bias"], x)


class Convolutional(Probe):
    """a = weight · stencil(x) + bias: every pixel with its neighbours along each axis, zeros outside.

    weight (m, (1 + 2·rank)·n): the pixel itself, then for each axis the neighbour before and the one behind.
    """

    weight: Tensor
    bias: Tensor

    def answer(self, x: Any) -> Any:
        return _affine(self.weight, self.bias, _stencil(x))

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        g_stencil = _transposed(self.weight, g)
        n, g_x = x.shape[1], g_stencil[:, : x.shape[1]]
        for k, (axis, step) in enumerate(_neighbours(x), 1):  # what was read from a neighbour goes back to it
            g_x = g_x + _moved(g_stencil[:, k * n : (k + 1) * n], axis, -step)
        return g_x, {"weight": _outer(g, _stencil(x)), "bias": _over_pixels(g)}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        rows, zero, stride = [list(row) for row in x], ctx.mpf(0), len(x[0])
        for size in S:
            stride //= size
            for step in (1, -1):  # the neighbour before, the neighbour behind
                for row in x:
                    place = [pixel // stride % size for pixel in range(len(row))]
                    rows.append([row[p - step * stride] if 0 <= i - step < size else zero for p, i in enumerate(place)])
        return _affine_scalars(parameters["weight"], parameters["bias"], rows)


class Network(Probe):
    """a = weight_2 tanh(weight_1 x + bias_1) + bias_2 at each pixel."""

    weight_1: Tensor
    bias_1: Tensor
    weight_2: Tensor
    bias_2: Tensor

    def answer(self, x: Any) -> Any:
        return _affine(self.weight_2, self.bias_2, torch.tanh(_affine(self.weight_1, self.bias_1, x)))

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        h = torch.tanh(_affine(self.weight_1, self.bias_1, x))
        g_h = _transposed(self.weight_2, g) * (1 - h * h)
        return _transposed(self.weight_1, g_h), {
            "weight_1": _outer(g_h, x),
            "bias_1": _over_pixels(g_h),
            "weight_2": _outer(g, h),
            "bias_2": _over_pixels(g),
        }

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        hidden = _affine_scalars(parameters["weight_1"], parameters["bias_1"], x)
        hidden = [[ctx.tanh(value) for value in row] for row in hidden]
        return _affine_scalars(parameters["weight_2"], parameters["bias_2"], hidden)


class Activation(Probe):
    """a = tanh(weight x + bias): the last operation keeps its result for backward, so none may overwrite it."""

    weight: Tensor
    bias: Tensor

    def answer(self, x: Any) -> Any:
        return torch.tanh(_affine(self.weight, self.bias, x))

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        a = self.answer(x)
        g_linear = g * (1 - a * a)
        return _transposed(self.weight, g_linear), {"weight": _outer(g_linear, x), "bias": _over_pixels(g_linear)}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        linear = _affine_scalars(parameters["weight"], parameters["bias"], x)
        return [[ctx.tanh(value) for value in row] for row in linear]


class OwnParameter(Probe):
    """a[b, i, n] = coefficients[i]: the parameter (1, m, 1…) itself, expanded past one sample or pixel (stride 0)."""

    coefficients: Tensor

    def answer(self, x: Any) -> Any:
        shape = (x.shape[0], self.outputs, *x.shape[2:])
        if not isinstance(x, Tensor):
            return x.new_zeros(shape) + self.coefficients
        return self.coefficients if shape == self.coefficients.shape else self.coefficients.expand(shape)

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {"coefficients": _over_pixels(g).reshape(self.coefficients.shape)}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        return [[_innermost(value)] * len(x[0]) for value in parameters["coefficients"][0]]


class OwnBuffer(OwnParameter):
    """As OwnParameter, of a buffer."""

    def hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {}


class View(Probe):
    """a = the first m channels of x, a view of it; m ≤ n. No parameters."""

    def answer(self, x: Any) -> Any:
        return x[:, : self.outputs]

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.cat([g, torch.zeros_like(x[:, self.outputs :])], 1), {}

    @staticmethod
    def scalars(ctx: Any, parameters: Mapping[str, Any], x: Scalars, S: tuple[int, ...], outputs: int) -> Scalars:
        return x[:outputs]


class Frozen(Linear):
    """As Linear, run under inference_mode: no gradient, and torch refuses to change the answer in place."""

    def answer(self, x: Any) -> Any:
        with torch.inference_mode():
            return super().answer(x)

    def pullback(self, x: Any, g: Any) -> tuple[Any, dict[str, Any]]:
        return torch.zeros_like(x), {}


KINDS: dict[str, type[Probe]] = {
    "zero": Zero,
    "constant": Constant,
    "linear": Linear,
    "convolutional": Convolutional,
    "network": Network,
    "activation": Activation,
}
# Kinds whose answer is someone else's too.
KEPT: dict[str, type[Probe]] = {"parameter": OwnParameter, "buffer": OwnBuffer, "view": View, "frozen": Frozen}
PROBES = KINDS | KEPT


@dataclass(frozen=True)
class SubnetSpec:
    """A kind of probe and its sizes. Parameters: `shapes` has their names, the case's state their values."""

    kind: str
    inputs: int
    outputs: int
    rank: int = 0

    @property
    def hidden(self) -> int:
        """Units of the network's hidden layer: 8, or so many that 4 inputs each read them all."""
        return max(8, -(-self.inputs // 4))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter."""
        n, m, h = self.inputs, self.outputs, self.hidden
        table: dict[str, dict[str, tuple[int, ...]]] = {
            "zero": {},
            "constant": {"coefficients": (m,)},
            "linear": {"weight": (m, n), "bias": (m,)},
            "convolutional": {"weight": (m, (1 + 2 * self.rank) * n), "bias": (m,)},
            "network": {"weight_1": (h, n), "bias_1": (h,), "weight_2": (m, h), "bias_2": (m,)},
            "activation": {"weight": (m, n), "bias": (m,)},
            "parameter": {"coefficients": (1, m, *(1,) * self.rank)},
            "buffer": {"coefficients": (1, m, *(1,) * self.rank)},
            "view": {},
            "frozen": {"weight": (m, n), "bias": (m,)},
        }
        return table[self.kind]

    def make(self, parameters: Mapping[str, Tensor], inputs: int, outputs: int) -> Probe:
        """The probe with these parameters, in torch's default dtype; what a block's subnet_constructor calls.

        Raises ValueError where a block asks for other sizes than the specification gives.
        """
        if (inputs, outputs) != (self.inputs, self.outputs):
            raise ValueError(
                f"subnet_constructor({inputs}, {outputs}): this block's subnet has {self.inputs} channels in "
                f"(passive part and conditions) and {self.outputs} out (2A). "
                f"Call subnet_constructor({self.inputs}, {self.outputs})."
            )
        dtype = torch.get_default_dtype()
        return PROBES[self.kind]({name: parameters[name].to(dtype) for name in self.shapes}, outputs)

    def scalars(self, ctx: Any, parameters: Mapping[str, Tensor], S: tuple[int, ...]) -> Callable[[Scalars], Scalars]:
        """The probe as a function of one sample over scalars of ``ctx`` (an mpmath context)."""
        exact = {name: _exactly(ctx, parameters[name].tolist()) for name in self.shapes}
        return lambda x: PROBES[self.kind].scalars(ctx, exact, x, S, self.outputs)


def _column(v: Tensor, x: Any) -> Tensor:
    """v (m,) as (1, m, 1…), of x's rank."""
    return v.reshape(1, v.shape[0], *(1,) * (len(x.shape) - 2))


def _affine(weight: Tensor, bias: Tensor, x: Any) -> Any:
    return torch.einsum("oi,bi...->bo...", weight, x) + _column(bias, x)


def _transposed(weight: Tensor, g: Any) -> Any:
    return torch.einsum("oi,bo...->bi...", weight, g)


def _outer(g: Any, x: Any) -> Any:
    """``Σ g xᵀ`` over batch and pixels: (m, n)."""
    return torch.einsum("bo...,bi...->oi", g, x)


def _over_pixels(g: Any) -> Any:
    """``Σ g`` over batch and pixels: (m,)."""
    return torch.sum(g, dim=(0, *range(2, len(g.shape))))


def _moved(x: Any, axis: int, step: int) -> Any:
    """x moved by one place along an axis: ``y[i] = x[i − step]``, 0 from outside."""
    here = [slice(None)] * axis
    kept = x[(*here, slice(None, -1) if step > 0 else slice(1, None))]
    pad = [0, 0] * (len(x.shape) - 1 - axis) + ([1, 0] if step > 0 else [0, 1])
    return functional.pad(kept, pad)


def _neighbours(x: Any) -> list[tuple[int, int]]:
    """Axis and step of each neighbour: along each axis the one before, then the one behind."""
    return [(axis, step) for axis in range(2, len(x.shape)) for step in (1, -1)]


def _stencil(x: Any) -> Any:
    """x and its neighbours, along channels: (B, (1 + 2·rank)·n, *S)."""
    return torch.cat([x, *(_moved(x, axis, step) for axis, step in _neighbours(x))], 1)


def _affine_scalars(weight: Sequence[Sequence[Any]], bias: Sequence[Any], x: Scalars) -> Scalars:
    pixels = range(len(x[0]))
    return [
        [sum((w * row[p] for w, row in zip(ws, x, strict=True)), b) for p in pixels]
        for ws, b in zip(weight, bias, strict=True)
    ]


def _innermost(value: Any) -> Any:
    """The one number of nested lists of one."""
    while isinstance(value, list):
        (value,) = value
    return value


def _exactly(ctx: Any, values: Any) -> Any:
    return [_exactly(ctx, v) for v in values] if isinstance(values, list) else ctx.mpf(values)
