"""torch's scalar functions stay within what is granted; the command that measures them sees where one does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowref.bench import scalars
from flowref.bench.scalars import EVERY, EXACT_TO, FUNCTIONS, PATHS, Scalar, Worst

ROOT = Path(__file__).parents[2]
SOME = EVERY[:: 2**16 + 1]
FEW = EVERY[:: 2**22 + 1]
TANH = FUNCTIONS["tanh"]
NAMES = tuple(FUNCTIONS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def silent(text: str) -> None:
    """No progress."""


def furthest(scalar: Scalar, x: torch.Tensor) -> dict[str, Worst]:
    worst = {path: Worst() for path in PATHS}
    scalars.compare(scalar, x, worst)
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_the_worst_arguments_so_far_stay_within_what_is_granted(name: str) -> None:
    x = torch.tensor(scalars.worst_arguments(name), dtype=torch.float32)

    assert len(x) and all(0 < one.share <= 1 for one in furthest(FUNCTIONS[name], x).values())


@pytest.mark.parametrize("name", NAMES)
def test_every_65537th_argument_stays_within_what_is_granted(name: str) -> None:
    figures = scalars.measure(FUNCTIONS[name], patterns=SOME, tell=silent)

    assert {path: one["share"] <= 1 for path, one in figures["paths"].items()} == dict.fromkeys(PATHS, True)


@pytest.mark.parametrize("name", NAMES)
def test_the_float64_route_is_exact_to_the_digits_that_are_printed(name: str) -> None:
    scalar = FUNCTIONS[name]
    x = torch.linspace(-85, 85, 301).tolist() + [2.0**-k for k in range(-6, 126, 7)] + [-(2.0**-k) for k in (3, 30, 90)]

    assert scalars.off(scalar, [v for v in x if v > scalar.least]) <= EXACT_TO


def test_a_route_that_is_not_exact_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="tanh in float64 is .* off"):
        scalars.measure(replace(TANH, exact=lambda x: torch.tanh(x.float()).double()), patterns=FEW, tell=silent)


@pytest.mark.parametrize(
    "wrong",
    {
        "5 ulps off": lambda x: torch.tanh(x) * (1 + 5 * 2**-23),
        "NaN at one": lambda x: torch.where(x == 1, torch.nan, torch.tanh(x)),
        "infinite at one": lambda x: torch.where(x == 1, torch.inf, torch.tanh(x)),
        "cancels near 0": lambda x: 1 - 2 / (torch.exp(2 * x) + 1),
        "not 0 at 0": lambda x: torch.tanh(x) + (x == 0) * 2.0**-149,
    }.items(),
    ids=lambda item: item[0],
)
def test_an_error_above_what_is_granted_is_seen(wrong: Any) -> None:
    x = torch.tensor([1.0, 0.5, -3.0, 1e-5, 0.0])

    assert all(one.share > 1 for one in furthest(replace(TANH, compute=wrong[1]), x).values())


def test_a_result_below_tiny_may_be_0_or_off_by_tiny() -> None:
    x, exp = torch.tensor([-90.0]), FUNCTIONS["exp"]

    flushed, near, far = (
        furthest(replace(exp, compute=lambda x, v=v: torch.full_like(x, v)), x)["vectors"].share
        for v in (0.0, 2.0**-127, 2.0**-125)
    )
    assert flushed == 0 and 0 < near <= 1 < far


def test_an_error_on_one_path_only_is_told_from_the_others() -> None:
    def strided_only(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) if x.is_contiguous() else 2 * torch.tanh(x)

    worst = furthest(replace(TANH, compute=strided_only), torch.linspace(-1, 1, 40))
    assert {path: one.share > 1 for path, one in worst.items()} == {"vectors": False, "tails": True, "strided": True}


def test_paths_hold_the_same_numbers_in_other_places() -> None:
    x = torch.arange(23.0)
    laid = {name: path(x) for name, path in PATHS.items()}

    assert {name: torch.equal(v.reshape(-1)[:23], x) for name, v in laid.items()} == dict.fromkeys(PATHS, True)
    assert {name: v.stride() for name, v in laid.items()} == {"vectors": (1,), "tails": (16, 1), "strided": (2,)}


def test_every_float32_is_an_argument_once() -> None:
    x = torch.cat(list(scalars.arguments("cpu", EVERY[:: 2**20], 100)))
    bits = x.view(torch.int32)

    assert (EVERY.start, EVERY.stop, EVERY.step) == (-(2**31), 2**31, 1)
    assert bits.tolist() == list(range(-(2**31), 2**31, 2**20))


def test_finished_functions_are_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    words = ["--out", str(out), "--function", "tanh"]

    assert [scalars.main([*words, *more], FEW) for more in ([], ["--function", "log"], ["--again"])] == [0, 0, 0]
    assert [line for line in capsys.readouterr().out.splitlines() if "already" in line] == [
        f"tanh: measured already, on {scalars.kept(out)[0]['date']}; --again measures anew"
    ]
    assert list(scalars.kept(out)[0]["functions"]) == ["tanh", "log"]


def test_another_torch_is_measured_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--out", str(tmp_path / "figures.json"), "--function", "tanh"]
    scalars.main(words, FEW)
    monkeypatch.setattr(torch, "__version__", "9.9")
    scalars.main(words, FEW)

    assert len(scalars.kept(tmp_path / "figures.json")) == 2


def test_more_than_granted_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FUNCTIONS, "tanh", replace(TANH, compute=lambda x: torch.tanh(x) * (1 + 2**-20)))

    assert scalars.main(["--out", str(tmp_path / "figures.json"), "--function", "tanh"], FEW) == 1
    assert "MORE THAN GRANTED: tanh, vectors: 2" in capsys.readouterr().out


def test_the_file_is_strict_json() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(scalars.KEPT.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_page_has_the_figures_that_are_kept() -> None:
    page = (ROOT / "docs" / "scalars.md").read_text(encoding="utf-8")

    assert [scalars.table(one) in page for one in scalars.kept(scalars.KEPT)] == [True]
