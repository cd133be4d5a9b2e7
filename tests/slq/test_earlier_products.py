"""Folders of versions whose single products had other bits."""

import numpy as np
import pytest

from tests.operators import make_pooled
import tf_hessian
from tf_hessian.curvature.program import Program
from tf_hessian.parts.block_spectra import block_spectra
from tf_hessian.slq import search_folder


def run(operator, *, draws, vectors_per_pass=None, **options):
  return tf_hessian.spectral_density(
    operator,
    num_draws=draws,
    storage=tf_hessian.Storage(vectors_per_pass=vectors_per_pass),
    check=False,
    progress=False,
    **{"lanczos_steps": 5} | options,
  )


@pytest.fixture
def earlier(monkeypatch):
  """Single products without regard to the bits of shared ones, as in version 0.1.0."""
  with monkeypatch.context() as patch:
    patch.setattr(Program, "alike", property(lambda _: False))
    yield patch


def _folders_of_each_kind(operator, folder):
  run(operator, workdir=folder / "run", draws=2, vectors_per_pass=1)
  tf_hessian.top_eigenpairs(operator, 2, tolerance=0.01, workdir=folder / "pairs", progress=False)
  tf_hessian.dense_hessian(operator, rows=[1, 4], workdir=folder / "matrix", progress=False)
  block_spectra(
    operator, lanczos_steps=3, num_draws=1, check=False, progress=False, workdir=folder / "blocks"
  )


@pytest.mark.slow
def test_folders_of_earlier_products_go_on_by_these(earlier, tmp_path):
  _folders_of_each_kind(make_pooled(), tmp_path)
  whole = run(make_pooled(), draws=3, vectors_per_pass=1)
  earlier.undo()
  operator = make_pooled()
  _folders_of_each_kind(operator, tmp_path)
  found = run(operator, workdir=tmp_path / "run", draws=3, vectors_per_pass=1)
  for mine, other in zip(found.tridiagonals, whole.tridiagonals, strict=True):
    np.testing.assert_array_equal(mine, other)
  for options in ({}, {"workdir": tmp_path / "new"}):  # the operator's products are as before
    now = run(operator, draws=3, **options)
    assert not np.array_equal(now.tridiagonals[0], whole.tridiagonals[0])


@pytest.mark.slow
def test_search_that_was_interrupted_goes_on_by_earlier_products(earlier, tmp_path):
  def search(operator, **options):
    options |= {"tolerance": 0.01, "basis_size": 4, "progress": False}
    return tf_hessian.top_eigenpairs(operator, 2, **options)

  whole = search(make_pooled())
  with earlier.context() as patch:
    patch.setattr(search_folder.SearchFolder, "save_result", lambda *_: None)
    search(make_pooled(), workdir=tmp_path)  # its states are there, and no result
  earlier.undo()
  operator = make_pooled()
  found = search(operator, workdir=tmp_path)
  np.testing.assert_array_equal(found.values, whole.values)
  np.testing.assert_array_equal(found.vectors, whole.vectors)
  assert not operator.program.straight


@pytest.mark.slow
def test_folder_that_is_refused_leaves_products_as_they_are(earlier, tmp_path):
  run(make_pooled(), workdir=tmp_path, draws=1)
  earlier.undo()
  operator = make_pooled()
  with pytest.raises(ValueError, match="something else"):
    run(operator, workdir=tmp_path, draws=1, seed=5)
  assert not operator.program.straight


@pytest.mark.slow
def test_folder_of_another_matrix_is_refused_and_products_stay_as_they_are(tmp_path):
  run(make_pooled(), workdir=tmp_path, draws=1)
  other = make_pooled()
  other.model.layers[-1].kernel.assign(2 * other.model.layers[-1].kernel)
  with pytest.raises(ValueError, match="point: "):
    run(other, workdir=tmp_path, draws=1)
  assert not other.program.straight
