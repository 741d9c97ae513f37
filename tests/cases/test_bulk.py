import hashlib
import math

import numpy as np
import pytest

from flowref.cases.bulk import Bulk, fixed_sum, parity, round_to_bits


def test_numbers_are_the_same_bits_everywhere():
    bulk = Bulk(7, 24)
    every = [bulk.spread("x", (3, 5)), bulk.between("s", 7, -1.5, 1.5), bulk.rotation("w", 19, False)]
    digest = hashlib.sha256(b"".join(value.astype("<f8").tobytes() for value in every)).hexdigest()

    assert digest[:32] == "0988da50ecb7c96351ace134ed36393e"


def test_a_label_has_its_own_stream():
    assert (Bulk(1, 24).spread("x", (4,)) == Bulk(1, 24).spread("x", (9,))[:4]).all()
    assert (Bulk(1, 24).spread("x", (4,)) != Bulk(1, 24).spread("gy", (4,))).any()
    assert (Bulk(1, 24).spread("x", (4,)) != Bulk(2, 24).spread("x", (4,))).any()


@pytest.mark.parametrize("bits", [8, 11, 24])
def test_spread_is_exact_in_its_bits_and_away_from_zero(bits):
    x = Bulk(0, bits).spread("x", (1000,), top=2)

    assert (x == round_to_bits(x, bits)).all()
    assert abs(x).min() >= 1
    assert abs(x).max() < 8
    assert 400 < (x > 0).sum() < 600


def test_round_to_bits_is_ties_to_even():
    assert round_to_bits(np.array([257.0, 259.0, -257.0, 0.0, 3.0]), 8).tolist() == [256.0, 260.0, -256.0, 0.0, 3.0]


@pytest.mark.parametrize("n", [1, 2, 3, 257])
def test_between_differs_in_every_element(n):
    s = Bulk(3, 24).between("s", n, -1.0, 40.0)

    assert len(set(s.tolist())) == n
    assert s.min() >= -1
    assert s.max() <= 40


@pytest.mark.parametrize("n", [2, 3, 4, 5, 17])
def test_permutation_has_no_special_structure(n):
    for seed in range(50):
        pi = Bulk(seed, 24).permutation("w", n)

        assert sorted(pi) == list(range(n))
        assert (pi != np.arange(n)).any()
        assert n == 2 or (pi[pi] != np.arange(n)).any()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 17, 33])
def test_rotation_is_orthogonal_with_determinant_one(n, dense):
    for seed in range(5):
        w = Bulk(seed, 53).rotation("w", n, dense)

        # Each of the n reflections adds a few roundings of numbers up to 1.
        assert abs(w.T @ w - np.eye(n)).max() < 64 * n * 2.0**-53
        assert np.linalg.slogdet(w)[0] == 1
        assert (abs(w) > 0).sum(1).max() == (n if dense else min(n, 8))


def test_parity_is_the_sign_of_the_permutation_matrix():
    for seed in range(20):
        pi = Bulk(seed, 24).shuffled("p", 6)

        assert parity(pi) == round(np.linalg.det(np.eye(6)[pi]))


def test_fixed_sum_adds_every_term_once():
    for n in range(1, 20):
        assert fixed_sum(2.0 ** np.arange(n)) == math.ldexp(1, n) - 1
