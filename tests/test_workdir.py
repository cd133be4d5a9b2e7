"""A folder that is none is refused by name, before anything is computed."""

import keras
import numpy as np
import pytest

import tf_hessian

FUNCTIONS = {
  "spectral_density": lambda o: tf_hessian.spectral_density(o, workdir=5),
  "dense_hessian": lambda o: tf_hessian.dense_hessian(o, workdir=5),
  "exact_spectrum": lambda o: tf_hessian.exact_spectrum(o, workdir=5),
  "top_eigenpairs": lambda o: tf_hessian.top_eigenpairs(o, 1, workdir=5),
  "block_spectra": lambda o: tf_hessian.block_spectra(o, workdir=5),
  "batch_eigenvalues": lambda o: tf_hessian.batch_eigenvalues(o, 1, workdir=5),
  "spectra": lambda o: tf_hessian.spectra(o, {"first": __file__}, workdir=5),
  "SpectrumCallback": lambda _: tf_hessian.SpectrumCallback([], draws=1, workdir=5),
}


@pytest.fixture(scope="module")
def operator():
  model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
  data = [(np.eye(2, dtype="float32"), np.ones((2, 1), "float32"))]
  return tf_hessian.HessianOperator(model, "mean_squared_error", data)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_folder_that_is_no_path_is_refused(operator, function):
  with pytest.raises(TypeError, match="workdir: expected the path of a folder, or None, got 5"):
    FUNCTIONS[function](operator)
  assert "product" not in vars(operator.program)
  assert not operator.program._columns
