"""Start vectors, and the streams that they and all else that is random come from."""

import ast
import math
import pathlib

import numpy as np
import pytest

from tf_hessian.numerics import probes
from tf_hessian.numerics.probes import Stream, probe, signs

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("n", [1, 2, 50, 100_000])
def test_probe_has_unit_length(n):
  v = probe(0, 0, n)
  # One rounding for each division, and those of the sum of n squares, which add as sqrt(n).
  assert abs(math.sqrt(math.fsum(v * v)) - 1) <= (1 + math.sqrt(n)) * EPS


def test_probe_is_a_float64_vector():
  v = probe(0, 0, 7)
  assert (v.dtype, v.shape) == (np.float64, (7,))


def test_probe_of_the_same_seed_and_draw_is_the_same():
  np.testing.assert_array_equal(probe(3, 2, 20), probe(3, 2, 20))


def test_probe_is_a_new_array_at_each_call():
  first = probe(3, 2, 20)
  expected = first.copy()
  first[:] = 0
  np.testing.assert_array_equal(probe(3, 2, 20), expected)


def test_probe_ignores_the_global_random_state():
  np.random.seed(0)  # noqa: NPY002
  first = probe(3, 2, 20)
  np.random.seed(1)  # noqa: NPY002
  np.testing.assert_array_equal(probe(3, 2, 20), first)


def test_all_draws_of_several_seeds_differ():
  vectors = {probe(seed, draw, 5).tobytes() for seed in range(10) for draw in range(10)}
  assert len(vectors) == 100


def test_seed_0_draw_1_differs_from_seed_1_draw_0():
  assert not np.any(probe(0, 1, 20) == probe(1, 0, 20))


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("draw", [0, 1, 9])
def test_stream_is_the_child_that_seed_sequence_spawns(seed, draw):
  child = np.random.SeedSequence(seed).spawn(10)[draw]
  v = np.random.Generator(np.random.PCG64(child)).standard_normal(20)
  np.testing.assert_array_equal(probe(seed, draw, 20), v / np.linalg.norm(v))


def test_negative_seed_is_refused():
  with pytest.raises(ValueError):
    probe(-1, 0, 5)


def test_mean_outer_product_is_the_identity_over_n():
  n, draws = 10, 4000
  v = np.array([probe(0, i, n) for i in range(draws)])
  # Fourth moments of the sphere: E v_i^4 = 3 / (n (n + 2)) and E v_i^2 v_j^2 = 1 / (n (n + 2)).
  variance = np.full((n, n), 1 / (n * (n + 2)))
  np.fill_diagonal(variance, 3 / (n * (n + 2)) - 1 / n**2)
  deviations = (v.T @ v / draws - np.eye(n) / n) / np.sqrt(variance / draws)
  assert np.abs(deviations).max() <= 5


def test_mean_is_zero():
  n, draws = 10, 4000
  mean = np.mean([probe(1, i, n) for i in range(draws)], axis=0)
  assert np.abs(mean).max() <= 5 / np.sqrt(n * draws)


# Streams.


def test_streams_have_the_numbers_that_recorded_results_were_made_with():
  assert {s.name: s.value for s in Stream} == {
    "CHECK": 2147483648,
    "NONZERO_ROWS": 2147483649,
    "KNOWN_VECTOR": 2147483650,
    "EIGENPAIRS": 2147483651,
    "TRACE": 549755813888,
    "SIGNS": 1099511627776,
  }


def test_streams_are_distinct_and_draws_do_not_come_near():
  numbers = [*Stream]
  assert len(set(numbers)) == len(Stream.__members__)
  # The tridiagonal matrices of so many draws are 34 GB at a single step each.
  assert min(numbers) >= 2**31


def test_streams_that_take_the_numbers_after_them_do_not_meet():
  assert sorted(Stream)[-3:] == [Stream.EIGENPAIRS, Stream.TRACE, Stream.SIGNS]
  assert Stream.TRACE - Stream.EIGENPAIRS > 2**38


def test_vectors_of_signs_are_independent():
  vectors = np.stack([signs(seed, i, 1000) for seed in (0, 1) for i in range(20)])
  products = vectors @ vectors.T / 1000
  # Normal of variance 1 / 1,000; six of it for 780 pairs.
  assert np.abs(products - np.eye(40)).max() < 6 / np.sqrt(1000)
  assert not np.array_equal(np.sign(probe(0, 0, 1000)), vectors[0])


@pytest.mark.parametrize("n", [1, 30])
def test_vectors_of_streams_are_no_draws(n):
  taken = [*range(20), *Stream, *(Stream.EIGENPAIRS + i for i in range(1, 5))]
  vectors = {probe(seed, i, n + 1).tobytes() for seed in (0, 1) for i in taken}
  assert len(vectors) == 2 * len(taken)


@pytest.mark.parametrize("stream", Stream)
def test_stream_is_the_child_of_its_number(stream):
  np.testing.assert_array_equal(probe(5, stream, 20), probe(5, int(stream), 20))


def test_streams_are_numbered_in_one_place_only():
  package = pathlib.Path(probes.__file__).parents[1]
  for path in package.rglob("*.py"):
    text = path.read_text()
    if path == pathlib.Path(probes.__file__) or not ("spawn_key" in text or "probe(" in text):
      continue
    for node in ast.walk(ast.parse(text)):
      assert not (isinstance(node, ast.keyword) and node.arg == "spawn_key"), path
      if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "probe":
        # The draw is a name, a small number or a stream of the table.
        numbers = [c.value for c in ast.walk(node.args[1]) if isinstance(c, ast.Constant)]
        assert all(x < 100 for x in numbers), path
