"""Eigenvalues of single batches against the dense matrix of an operator of each batch alone."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.distribute import engines
from tf_hessian.models.mlp import mlp
from tf_hessian.parts import batch_eigenvalues as lib
from tf_hessian.parts.batch_eigenvalues import BatchEigenvalues, batch_eigenvalues

SIZES = (6, 6, 4, 6)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  return [
    (
      rng.standard_normal((k, 3)).astype(np.float32),
      rng.integers(0, 3, k),
      rng.uniform(0.5, 2, k).astype(np.float32),
    )
    for k in SIZES
  ]


@pytest.fixture(scope="module")
def model():
  keras.utils.set_random_seed(0)
  return mlp(input_shape=(3,), hidden_units=(4,), num_classes=3, activation="tanh")


@pytest.fixture(scope="module")
def operator(model, data):
  return tf_hessian.HessianOperator(model, LOSS, data)


@pytest.fixture(scope="module")
def expected(model, data):
  """All eigenvalues of each batch's own Hessian, ascending."""
  operators = [tf_hessian.HessianOperator(model, LOSS, [batch]) for batch in data]
  return np.array([np.linalg.eigvalsh(tf_hessian.dense_hessian(o)) for o in operators])


@pytest.mark.slow
def test_batch_that_weighs_nothing_is_left_out_with_a_word(model, data, caplog):
  without = [(x, y, w if b != 1 else 0 * w) for b, (x, y, w) in enumerate(data)]
  found = batch_eigenvalues(tf_hessian.HessianOperator(model, LOSS, without), progress=False)
  whole = batch_eigenvalues(tf_hessian.HessianOperator(model, LOSS, data), progress=False)
  assert np.isnan(found.values[:, 0]).tolist() == [False, True, False, False]
  np.testing.assert_array_equal(found.values[[0, 2, 3]], whole.values[[0, 2, 3]])
  assert "batch 1: its examples weigh nothing" in caplog.text
  assert "not within the tolerance" not in caplog.text
  assert "nan" not in str(found)


def test_they_are_the_eigenvalues_of_each_batchs_matrix(operator, expected):
  found = batch_eigenvalues(operator, 2, 1, progress=False)
  assert found.values.shape == (len(SIZES), 3) and found.converged.all()
  wanted = expected[:, [-1, -2, 0]]
  # Both matrices are rounded to float32, and the dense one's eigenvalues are off by its norm.
  atol = 40 * np.finfo(np.float32).eps * np.abs(expected).max()
  np.testing.assert_allclose(found.values, wanted, rtol=0, atol=atol)
  assert np.all(found.residuals <= 2.4e-6 * np.abs(found.values).max(axis=1, keepdims=True))


def test_eigenvalues_of_alike_outputs_count_once_for_an_output():
  rng = np.random.default_rng(0)
  batches = [tuple(rng.standard_normal((k, n)).astype("f4") for n in (20, 3)) for k in (30, 40)]
  layer = keras.layers.Dense(3, use_bias=False)
  operator = tf_hessian.HessianOperator(
    keras.Sequential([keras.Input((20,)), layer]), "mse", batches
  )
  found = batch_eigenvalues(operator, 3, progress=False)
  # The loss is a mean over the outputs: each has the matrix 2 / 3 X'X / B of its own.
  blocks = [np.linalg.eigvalsh(2 / 3 * x.astype(float).T @ x / len(x))[-1] for x, _ in batches]
  assert found.converged.all()
  np.testing.assert_allclose(found.values, np.repeat(blocks, 3).reshape(2, 3), rtol=2.4e-6)
  alone = batch_eigenvalues(operator, 3, repeated=False, progress=False)
  assert alone.products.sum() < found.products.sum()


def test_all_batches_share_the_functions(operator):
  batch_eigenvalues(operator, progress=False)
  before = operator.program.product.tracing_count
  batch_eigenvalues(operator, progress=False)
  assert operator.program.product.tracing_count == before
  assert before <= len(operator.batches.signatures) * 2  # a segment of its own, or the whole pass


@pytest.mark.slow
def test_streamed_batches_give_the_same(model, data, operator):
  def generate():
    yield from data

  specs = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in data[0])
  dataset = tf.data.Dataset.from_generator(generate, output_signature=specs)
  streamed = tf_hessian.HessianOperator(model, LOSS, dataset, cache_bytes=0)
  found = batch_eigenvalues(streamed, progress=False)
  np.testing.assert_array_equal(found.values, batch_eigenvalues(operator, progress=False).values)


@pytest.mark.slow
def test_replicas_leave_it_to_one_device(model, data, operator):
  devices = tf.config.list_logical_devices("CPU")
  strategy = tf.distribute.MirroredStrategy([d.name for d in devices[:2]])
  mirrored = tf_hessian.HessianOperator(model, LOSS, data, strategy=strategy)
  found = batch_eigenvalues(mirrored, progress=False)
  np.testing.assert_array_equal(found.values, batch_eigenvalues(operator, progress=False).values)
  assert isinstance(mirrored.program.on_one_device().engine, engines.OneDevice)


@pytest.mark.slow
def test_gauss_newton_matrices_have_them_too(model, data):
  gauss_newton = tf_hessian.GaussNewtonOperator(model, LOSS, data)
  found = batch_eigenvalues(gauss_newton, num_batches=1, progress=False)
  alone = tf_hessian.GaussNewtonOperator(model, LOSS, data[:1])
  wanted = np.linalg.eigvalsh(tf_hessian.dense_hessian(alone))[-1]
  np.testing.assert_allclose(found.values, [[wanted]], rtol=1e-5)


class Killed(BaseException):
  pass


def interrupt(monkeypatch, after):
  """Ends the next run as Ctrl-C would, after so many batches."""
  add = lib._Found.add

  def count(self, pairs):
    add(self, pairs)
    if self.count == after:
      raise Killed

  monkeypatch.setattr(lib._Found, "add", count)


def test_interrupted_run_goes_on_where_it_was(operator, tmp_path, monkeypatch):
  whole = batch_eigenvalues(operator, 2, progress=False)
  with monkeypatch.context() as patch:
    interrupt(patch, 2)
    with pytest.raises(Killed):
      batch_eigenvalues(operator, 2, workdir=tmp_path, progress=False)
  started = []
  batches = operator.runner.single_batches
  monkeypatch.setattr(operator.runner, "single_batches", lambda b: started.append(b) or batches(b))
  found = batch_eigenvalues(operator, 2, workdir=tmp_path, progress=False)
  assert started == [2]
  np.testing.assert_array_equal(found.values, whole.values)
  np.testing.assert_array_equal(found.products, whole.products)
  batch_eigenvalues(operator, 2, workdir=tmp_path, progress=False)
  assert started == [2, len(SIZES)]


def test_folder_of_another_run_is_refused(operator, tmp_path):
  batch_eigenvalues(operator, workdir=tmp_path, progress=False)
  with pytest.raises(ValueError, match="another run.*largest"):
    batch_eigenvalues(operator, 2, workdir=tmp_path, progress=False)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged"])
def test_damaged_file_begins_again(operator, tmp_path, content):
  whole = batch_eigenvalues(operator, workdir=tmp_path, progress=False)
  (tmp_path / "eigenvalues.npz").write_bytes(content)
  found = batch_eigenvalues(operator, workdir=tmp_path, progress=False)
  np.testing.assert_array_equal(found.values, whole.values)


_CHILD = """
import os, sys, time
import numpy as np
import tensorflow as tf
import tf_hessian
from tf_hessian.parts import batch_eigenvalues as lib
lib._SAVE_SECONDS = 0.0
point = [tf.Variable([1.0, 2.0, 3.0])]
data = [np.full((2, 3), b + 1, "float32") for b in range(6)]
operator = tf_hessian.HessianOperator(
  point, lambda p, batch: tf.reduce_sum(batch * p[0] ** 4, axis=1), data
)
add = lib._Found.add
def kill(self, pairs):
  add(self, pairs)
  if self.count == int(sys.argv[2]):
    os.kill(os.getpid(), 9)
lib._Found.add = kill
found = lib.batch_eigenvalues(operator, 2, workdir=sys.argv[1], progress=False)
print(found.values.tobytes().hex())
"""


@pytest.mark.slow
def test_killed_run_goes_on_bitwise(tmp_path):
  def run(folder, after):
    command = [sys.executable, "-c", _CHILD, str(tmp_path / folder), str(after)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)

  assert run("killed", 3).returncode == -signal.SIGKILL
  ended, whole = run("killed", 0), run("whole", 0)
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout == whole.stdout != ""


def test_it_is_shown_and_drawn_and_kept_as_bytes(operator, tmp_path):
  found = batch_eigenvalues(operator, 1, 1, progress=False)
  assert "largest 1" in str(found) and "smallest 1" in str(found) and "4 batches" in str(found)
  found.plot(tmp_path / "batches.png")
  assert (tmp_path / "batches.png").stat().st_size > 1000
  again = BatchEigenvalues.from_bytes(found.to_bytes())
  np.testing.assert_array_equal(again.values, found.values)
  assert again.largest == 1


def test_missed_tolerance_is_said(operator, caplog):
  found = batch_eigenvalues(operator, tolerance=1e-14, max_products=8, basis_size=8, progress=False)
  assert not found.converged.all()
  assert "are not within the tolerance: allow more products" in caplog.text


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"largest": 0}, "expected 1 to n"),
    ({"largest": 10**6}, "expected 1 to n"),
    ({"num_batches": 0}, "num_batches"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"basis_size": 1}, "basis_size"),
    ({"seed": -1}, "seed"),
  ],
)
def test_bad_arguments_are_named(operator, options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    batch_eigenvalues(operator, progress=False, **options)


def test_matrix_without_a_model_is_refused():
  with pytest.raises(TypeError, match="operator"):
    batch_eigenvalues(np.eye(3))


def test_broken_weights_are_named(operator, model):
  kernel = model.trainable_variables[0]
  before = kernel.numpy()
  try:
    kernel.assign(np.full(before.shape, np.nan))
    with pytest.raises(ValueError, match="kernel"):
      batch_eigenvalues(operator, progress=False)
  finally:
    kernel.assign(before)


def test_covariances_of_batches_are_about_their_own_mean_gradients(model, data):
  operator = tf_hessian.GradientCovarianceOperator(model, LOSS, data[:2])
  found = batch_eigenvalues(operator, 2, progress=False).values
  for values, batch in zip(found, data[:2], strict=True):
    alone = operator.like(dataset=[batch])
    dense = np.stack([alone @ e for e in np.eye(alone.shape[0])])
    expected = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1][:2]
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_batch_may_weigh_nothing_in_a_later_output():
  keras.utils.set_random_seed(0)
  inputs = keras.Input((2,))
  heads = [keras.layers.Dense(1, use_bias=False)(inputs) for _ in "ab"]
  x, y, one = np.eye(2, dtype="float32"), np.ones((2, 1), "float32"), np.ones(2, "float32")
  data = [(x, (y, y), (one, one)), (x, (y, y), (one, 0 * one)), (x, (y, y), (0 * one, one))]
  operator = tf_hessian.HessianOperator(keras.Model(inputs, heads), ["mse", "mse"], data)
  values = batch_eigenvalues(operator, progress=False).values[:, 0]
  # The first output weighs penalties, and so the batch.
  np.testing.assert_allclose(values[:2], [1, 1], rtol=1e-5)
  assert np.isnan(values[2])
