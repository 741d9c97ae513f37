import pytest
import torch

from flowref.cases import Recipe
from flowref.golden.format import fill
from flowref.golden.generate import write
from flowref.golden.listing import Listed
from flowref.golden.reading import Golden


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden():
    """The set of the repository."""
    return Golden.open()


FEW = (
    Listed(Recipe(C=3, S=(2,), conditions=(1,), seed=1), steps=True),
    Listed(Recipe(C=2, B=1, subnet="constant", gin=True, seed=2), given=True),
    Listed(Recipe(C=3, B=1, soft=True, reflections=1, affine="EXP", dialect="documented", seed=3)),
)


@pytest.fixture(scope="session")
def few():
    """Three small vectors, of two dialects."""
    return [fill(listed.case(), steps=listed.steps, recipe=listed.json()) for listed in FEW]


@pytest.fixture
def folder(few, tmp_path):
    """A folder that holds them, alone in another."""
    write(few, tmp_path / "set", replace=False)
    return tmp_path / "set"
