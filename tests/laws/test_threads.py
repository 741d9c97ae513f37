"""Laws about several threads: the target has them during its passes, and nobody has them afterwards."""

import pytest
import torch

from flowref.cases import Recipe
from flowref.laws import registry
from flowref.laws.run import THREADS, TURNS, TargetRaised, hold_case
from flowref.reference import ReferenceBlock
from flowref.targets import Module

LAWS = ("reference.several-threads-equal-reference", "gradient.on-several-threads")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Noted(ReferenceBlock):
    """Notes how many threads a pass has."""

    threads: list[int] = []

    def forward(self, *given, **named):
        self.threads.append(torch.get_num_threads())
        return super().forward(*given, **named)


class Raising(Noted):
    """Raises in each pass."""

    def forward(self, *given, **named):
        super().forward(*given, **named)
        raise ZeroDivisionError


@pytest.mark.parametrize("name", LAWS)
def test_the_targets_passes_have_several_threads_and_nothing_behind_them(name):
    Noted.threads.clear()
    (law,) = registry.asked([name])
    hold_case(law, Recipe(B=4, C=3).case(), Module(Noted, dialect="anomalib"), "float32", "forward")
    assert Noted.threads == TURNS * [THREADS]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", LAWS)
def test_a_target_that_raises_leaves_the_threads_as_they_were(name):
    (law,) = registry.asked([name])
    with pytest.raises(TargetRaised, match="ZeroDivisionError"):
        hold_case(law, Recipe(B=4, C=3).case(), Module(Raising, dialect="anomalib"), "float32", "forward")
    assert torch.get_num_threads() == 1
