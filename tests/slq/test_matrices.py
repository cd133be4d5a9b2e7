"""What is made of a Hessian is made of each matrix; runs go on bitwise after SIGKILL."""

import functools
import signal
import subprocess
import sys

import numpy as np
import pytest

import tf_hessian

KILLED_AT = 4  # of the 6 products of two draws that share passes
MATRICES = {
  "hessian": tf_hessian.HessianOperator,
  "gauss_newton": tf_hessian.GaussNewtonOperator,
  "fisher": tf_hessian.FisherOperator,
  "sampled_fisher": functools.partial(tf_hessian.FisherOperator, kind="sampled", samples=3),
  "empirical_fisher": functools.partial(tf_hessian.FisherOperator, kind="empirical"),
  "gradient_covariance": tf_hessian.GradientCovarianceOperator,
}


def operator(name):
  """Returns the matrix of a small network with dropout and batch normalization."""
  import keras

  keras.utils.clear_session()  # so that layers have the same names
  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [
      keras.Input((4,)),
      keras.layers.Dense(5, "tanh"),
      keras.layers.BatchNormalization(),
      keras.layers.Dropout(0.3),
      keras.layers.Dense(3),
    ]
  )
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((8, 4)).astype("float32"), rng.integers(0, 3, 8)) for _ in range(3)]
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return MATRICES[name](model, loss, data, training=True)


def measure(matrix, workdir=None):
  return tf_hessian.spectral_density(
    matrix, num_draws=2, lanczos_steps=6, workdir=workdir, check=False, progress=False
  )


def run_until_killed(name, workdir):
  """Measures, and kills this process in the midst of it."""
  import os

  matrix = operator(name)
  products, made = matrix.products, []

  def killing(vectors, **options):
    made.append(1)
    if len(made) > KILLED_AT:
      os.kill(os.getpid(), signal.SIGKILL)
    return products(vectors, **options)

  matrix.products = killing
  measure(matrix, workdir)


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MATRICES)
def test_eigenvalues_traces_and_plans_are_those_of_the_matrix(name):
  matrix = operator(name)
  dense = tf_hessian.dense_hessian(matrix)
  values = np.linalg.eigvalsh((dense + dense.T) / 2)
  # Products are float32, and eigenvalues off by the norm of their errors.
  atol = 100 * np.finfo(np.float32).eps * np.abs(values).max()
  pairs = tf_hessian.top_eigenpairs(matrix, 2, 1, progress=False)
  np.testing.assert_allclose(pairs.values, values[[-1, -2, 0]], rtol=0, atol=atol)
  exact = tf_hessian.exact_spectrum(matrix)
  np.testing.assert_allclose(np.sort(exact.eigenvalues), values, rtol=0, atol=atol)
  every = tf_hessian.trace(matrix, matrix.shape[0], progress=False)
  np.testing.assert_allclose(every.value, np.trace(dense), rtol=0, atol=10 * atol)
  plan = tf_hessian.plan(matrix, num_draws=2, lanczos_steps=6)
  run = tf_hessian.spectral_density(matrix, num_draws=2, lanczos_steps=6, progress=False)
  assert plan.num_draws == run.num_draws and plan.lanczos_steps == len(run.diagonals[0])


@pytest.mark.parametrize("name", MATRICES)
def test_killed_run_goes_on_bitwise(name, tmp_path):
  command = [sys.executable, __file__, name, str(tmp_path / "run")]
  found = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert found.returncode == -signal.SIGKILL, found.stderr
  matrix = operator(name)
  whole = measure(matrix)
  made = []
  products = matrix.products
  matrix.products = lambda v, **options: made.append(1) or products(v, **options)
  ended = measure(matrix, tmp_path / "run")
  assert len(made) == 6 - KILLED_AT
  for a, b in zip(
    whole.diagonals + whole.off_diagonals, ended.diagonals + ended.off_diagonals, strict=True
  ):
    np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
  run_until_killed(*sys.argv[1:])


def test_long_doubles_are_measured_as_float64_each_time():
  matrix = np.diag(np.arange(1.0, 9.0)).astype(np.longdouble)
  for _ in range(5):
    found = tf_hessian.spectral_density(matrix, num_draws=2, lanczos_steps=8, progress=False)
    np.testing.assert_allclose(found.largest(1)[0], 8)
