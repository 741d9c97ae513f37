from dataclasses import replace

import pytest
import torch

from flowref.cases import LAYOUTS, Recipe


@pytest.mark.parametrize("S", [(), (5,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_strides_and_no_value(layout, S):
    case = Recipe(B=3, C=4, S=S, conditions=(1, 2), layout=layout).case()
    x, c = case.inputs(torch.float32, "cpu")

    for want, got in zip((case.x, *case.c), (x, *c), strict=True):
        assert got.dtype is torch.float32
        assert torch.equal(want.float(), got)
    strides = {
        "contiguous": x.is_contiguous(),
        "channels-last": x.stride(1) == 1,
        "strided": x.stride(-1) == 2,
        "transposed": x.stride(0) < x.stride(1),
        "expanded": x.stride(0) == 0,
        "offset": x.storage_offset() == 3,
    }

    assert strides[case.layout]
    assert case.layout == layout or (layout, S) == ("channels-last", ())


@pytest.mark.parametrize("layout", ["strided", "offset"])
def test_what_lies_around_the_elements_is_not_a_number(layout):
    x, _ = Recipe(B=2, C=3, S=(2,), layout=layout).case().inputs(torch.float64, "cpu")
    storage = torch.tensor(x.untyped_storage(), dtype=torch.uint8).view(torch.float64)

    assert storage.isnan().sum() == len(storage) - x.numel() > 0


def test_inputs_are_fresh_each_time():
    case = Recipe().case()
    x, _ = case.inputs(torch.float64, "cpu")
    x.fill_(0)

    assert (case.x != 0).all()


def test_an_expanded_case_repeats_one_sample_and_its_gradients_differ():
    case = Recipe(B=3, layout="expanded", conditions=(2,)).case()

    assert torch.equal(case.x, case.x[:1].expand_as(case.x))
    assert torch.equal(case.c[0], case.c[0][:1].expand_as(case.c[0]))
    assert (case.gy[0] != case.gy[1]).any()


def test_the_id_sees_every_part():
    case = Recipe(conditions=(1,)).case()
    others = [
        replace(case, **{name: getattr(case, name) + 2.0**-40}) for name in ("x", "gy", "gj")
    ] + [
        replace(case, layout="strided"),
        replace(case, c=(case.c[0] * 2,)),
        replace(case, spec=replace(case.spec, gin_block=True)),
        replace(case, subnet=replace(case.subnet, kind="activation")),
        replace(case, state=case.state | {"global_scale": -case.state["global_scale"]}),
        replace(case, x=case.x.reshape(4, 2)),
    ]  # fmt: skip
    ids = {other.id for other in others}

    assert case.id not in ids
    assert len(ids) == len(others)
    assert replace(case, recipe=None).id == case.id


def test_describe_is_two_pasteable_lines():
    small = Recipe(B=1, C=3, S=(2,), g=0.5).case()
    full = Recipe(
        C=5, S=(2, 2), conditions=(1, 2), affine="EXP", soft=True, reflections=1, gin=True, reverse_permutation=True,
        subnet="network", layout="offset", dialect="documented",
    ).case()  # fmt: skip

    assert small.describe() == (
        "B=1 C=3 S=(2,) SOFTPLUS g=0.5 α=2 hard, linear subnet\nRecipe(B=1, C=3, S=(2,), g=0.5).case()"
    )
    assert full.describe().splitlines()[0] == (
        "B=2 C=5 S=(2, 2) conditions=(1, 2) EXP g=1 α=2 soft, 1 reflection, reverse permutation, GIN, network subnet, "
        "offset inputs, documented"
    )
    assert eval(small.describe().splitlines()[1]).id == small.id
