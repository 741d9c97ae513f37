"""What the kernels compute with: each function to a few ulps, near 0 and at its ends."""

import numpy as np
import pytest
import torch

from flowref.fast import triton_kernels

NEAR_0 = np.concatenate([sign * 2.0 ** np.linspace(-149, 3, 100_001) for sign in (1, -1)])
WHICH = {"exp": 0, "tanh": 1, "log": 2, "log1p": 3, "SIGMOID": 4, "SOFTPLUS": 5, "EXP": 6}
RIGHT = {
    "exp": np.exp,
    "tanh": np.tanh,
    "log": np.log,
    "log1p": np.log1p,
    "SIGMOID": lambda s: 10 / (1 + np.exp(-(s.astype(np.float32) - np.float32(2)).astype(np.float64))),
    "SOFTPLUS": lambda s: 0.2 * np.logaddexp(0, s / 2),
    "EXP": np.exp,
}


def computed(name, x, size=2**16):
    x = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    y = torch.empty_like(x)
    triton_kernels.functions[(-(-len(x) // size),)](x, y, len(x), WHICH=WHICH[name], SIZE=size)
    return x.numpy(), y.numpy()


# Ulps at most, a little above what is seen. block.md grants: exp 2 + |argument|, tanh 4, log and log1p 2, Ψ 4 and,
# for the product in front, 1.
CASES = [
    ("exp", np.linspace(-103.9, 88.72, 1_000_003), 1.05),
    ("exp", NEAR_0, 1.05),
    ("tanh", np.linspace(-12, 12, 1_000_003), 2.5),
    ("tanh", NEAR_0, 2.5),
    ("log", 2.0 ** np.linspace(-149, 127.99, 1_000_003), 2.0),
    ("log", np.linspace(0.5, 2, 300_003), 2.0),
    ("log1p", 2.0 ** np.linspace(-126, 0, 300_003), 2.0),
    ("log1p", np.linspace(0, 1, 300_003), 2.0),
    ("SIGMOID", np.linspace(-80, 40, 300_003), 5.0),
    ("SOFTPLUS", np.linspace(-160, 160, 300_003), 5.0),
    ("EXP", np.linspace(-80, 80, 300_003), 1.05),
]


@pytest.mark.parametrize(("name", "points", "most"), CASES, ids=[f"{name}-{k}" for k, (name, _, _) in enumerate(CASES)])
def test_functions_are_right_to_a_few_ulps(name, points, most):
    """In units of the last place of the right result, subnormal ones in 2^-149."""
    x, got = computed(name, points)
    with np.errstate(all="ignore"):
        right = RIGHT[name](x.astype(np.float64))
        error = np.abs(got - right) / np.spacing(np.abs(right).astype(np.float32)).astype(np.float64)
    assert error.max() <= most, (error.max(), x[error.argmax()])


ENDS = np.array([0, -0.0, np.inf, -np.inf, np.nan, 89, -104, 1e-45, -1e-45, 9.1, -1e30], np.float32)


def test_functions_at_their_ends():
    _, exp = computed("exp", ENDS, 16)
    _, tanh = computed("tanh", ENDS, 16)
    _, log = computed("log", [0, -0.0, np.inf, -np.inf, np.nan, 1, -1], 16)
    want = np.array([0, -0.0, 1, -1, np.nan, 1, -1, 1e-45, -1e-45, 1, -1], np.float32)

    assert np.array_equal(exp[[0, 1, 2, 3, 4, 5, 6, 7, 8, 10]], [1, 1, np.inf, 0, np.nan, np.inf, 0, 1, 1, 0], True)
    assert np.array_equal(tanh, want, equal_nan=True)
    assert np.array_equal(np.signbit(tanh[want == want]), np.signbit(want[want == want]))
    assert np.array_equal(log, [-np.inf, -np.inf, np.inf, np.nan, np.nan, 0, np.nan], equal_nan=True)
