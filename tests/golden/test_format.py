"""The files of golden/v1: what they hold, how they are written, that others read them."""

import itertools
import json
import struct

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file

from flowref.cases.regimes import REGIMES
from flowref.golden.allowed import rounded_up
from flowref.golden.flags import FLAGS
from flowref.golden.format import MANIFEST, SCHEMA, SCHEMA_FILE, schema_bytes, tensor_bytes
from flowref.golden.listing import LISTING, Listed
from flowref.golden.reading import FOLDER, case_of
from flowref.golden.subnet import FORMULAS
from flowref.spec import AFFINE_TYPES, Dialect

DIALECTS = [d.value for d in Dialect]


@pytest.fixture(scope="module")
def manifest():
    return json.loads((FOLDER / MANIFEST).read_text())


def test_all_files_together_are_at_most_8_MB():
    assert 0 < sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8 * 2**20


def test_the_manifest_holds_its_schema_and_the_schema_is_one(manifest):
    schema = json.loads((FOLDER / SCHEMA_FILE).read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    assert (FOLDER / SCHEMA_FILE).read_bytes() == schema_bytes()
    assert schema == json.loads(json.dumps(SCHEMA))


def flags_of_spec(spec):
    n = bool(spec["learned_householder_permutation"])
    names = ("dialect", "global_affine_type", "gin_block", "permute_soft", "reverse_permutation")
    return (*(spec[name] for name in names), n, len(spec["dims"]) - 1)


def test_every_combination_of_flags_is_there_at_every_rank(manifest):
    """And every pair of them with either subnet."""
    choices = (DIALECTS, AFFINE_TYPES, *[(False, True)] * 4, range(4))
    want = set(itertools.product(*choices))
    found = {(flags_of_spec(v["spec"]), v["subnet"]) for v in manifest["vectors"]}
    pairs = lambda row: {((i, row[i]), (j, row[j])) for i, j in itertools.combinations(range(len(row)), 2)}  # noqa: E731

    assert want <= {flags for flags, _ in found}
    for kind in ("given", "linear"):
        assert set().union(*map(pairs, want)) == set().union(*(pairs(flags) for flags, k in found if k == kind))


def test_every_flag_occurs_and_says_what_it_is_there_for(manifest):
    counts = {flag: sum(flag in v["flags"] for v in manifest["vectors"]) for flag in FLAGS}

    assert min(counts.values()) >= 2, counts
    assert manifest["flags"] == {f: flag.json() for f, flag in FLAGS.items()}
    assert all(flag.note and flag.sees and flag.chance for flag in FLAGS.values())
    assert {flag.id for flag in FLAGS.values() if flag.holds is None} <= set(REGIMES)
    assert set(manifest["subnets"]) == {"given", "linear"} <= set(FORMULAS)


def test_some_vectors_of_every_dialect_and_rank_have_all_steps(manifest):
    found = {(v["spec"]["dialect"], len(v["spec"]["dims"]) - 1) for v in manifest["vectors"] if v["steps"]}

    assert found == set(itertools.product(DIALECTS, range(4)))


def test_a_vector_is_the_case_that_its_recipe_draws(golden):
    for listed in [one for dialect in LISTING.values() for one in dialect[::40]]:
        case = listed.case()
        vector = next(v for v in golden.vectors if v.id == case.id[:16])

        assert vector.entry["recipe"] == listed.json()
        assert case_of(vector).id == case.id


def test_a_recipe_that_is_written_down_draws_the_case_again(golden):
    for vector in golden.vectors[::60]:
        fields = dict(vector.entry["recipe"])
        twist, given = fields.pop("twist", ""), vector.entry["subnet"] == "given"
        recipe = type(LISTING["anomalib"][0].recipe)(**fields)

        assert Listed(recipe, given, twist).case().id[:16] == vector.id


def test_what_is_given_is_a_float32_number(golden):
    """So that a float32 block is given it exactly."""
    for vector in golden.vectors:
        for name, value in vector.arrays.items():
            if name.split(".")[0] not in ("forward", "reverse"):
                assert (value.astype(np.float32) == value).all(), (vector.id, name)


def test_most_elements_are_decided(golden):
    """Allowed is at most a sixteenth of the largest magnitude, in 95 of 100 elements, even in float32."""
    decided = elements = 0
    for vector in golden.vectors:
        for name, error in vector.arrays.items():
            if name.endswith(".error") and error.size:
                want = np.abs(vector.arrays[name.removesuffix(".error")])
                decided += int((error[0] <= want.max() / 16).sum())
                elements += want.size

    assert decided >= 0.95 * elements


def test_zeros_by_rule_are_plus_0(golden):
    for vector in golden.vectors:
        if vector.entry["spec"]["gin_block"]:
            for direction in ("forward", "reverse"):
                for name in ("logdet", "grad.state.global_scale"):
                    value = vector.arrays[f"{direction}.{name}"]
                    assert (value.view(np.int64) == 0).all(), (vector.id, direction, name)


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.zeros((0, 3)), "c": np.array(-0.0), "d": np.ones(1)}
    (tmp_path / "x").write_bytes(tensor_bytes(arrays))

    found = load_file(tmp_path / "x")

    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in found.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in arrays.items()
    }
    assert struct.unpack("<Q", (tmp_path / "x").read_bytes()[:8])[0] % 8 == 0


def test_bounds_are_rounded_up_to_3_bits_and_no_more_than_a_quarter():
    rng = np.random.default_rng(0)
    bounds = np.concatenate([[0.0], 2.0 ** rng.uniform(-140, 10, 1000), 2.0 ** np.arange(-150.0, 0)])

    found, margin = rounded_up(bounds)

    mantissa = np.frexp(found)[0] * 8
    assert (mantissa == np.rint(mantissa)).all()
    assert ((bounds <= found) & (found <= 1.2500013 * bounds)).all()
    assert 0 < margin <= 2.0**-20
