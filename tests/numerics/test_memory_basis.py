"""Bases in arrays, and arrays that are given for one."""

import numpy as np
import pytest

from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.memory_basis import MemoryBasis, as_basis, orthogonalize
from tf_hessian.numerics.probes import probe

STEPS = 7


def test_plain_array_without_rows_leaves_the_vector():
  w = np.arange(3.0)
  overlaps, length = orthogonalize(w, np.empty((0, 3)), 0.0)
  assert (overlaps.size, length) == (0, np.sqrt(5))
  np.testing.assert_array_equal(w, np.arange(3.0))


def test_basis_is_its_own_basis(new):
  basis = new("memory", STEPS, 100)
  assert as_basis(basis) is basis


def test_plain_array_is_the_basis_in_memory(symmetric, run, assert_same_tridiagonal):
  h = symmetric(np.linspace(-1, 3, 100))
  array = np.empty((20, 100))
  array[0] = probe(0, 0, 100)
  plain = Lanczos(array)
  plain.run(lambda v: h @ v)
  wrapped = run(MemoryBasis(np.empty((20, 100))), lambda v: h @ v)
  assert plain.basis is array
  assert_same_tridiagonal(plain, wrapped)


def test_plain_array_in_float32_is_refused():
  with pytest.raises(TypeError, match="basis: expected float64, got float32"):
    as_basis(np.empty((2, 3), np.float32))


def test_array_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"basis: expected shape \(steps, n\), got \(3,\)"):
    MemoryBasis(np.empty(3))
