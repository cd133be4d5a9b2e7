"""Spectra of diagonal blocks against operators of these blocks alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.parts.block_spectra import block_spectra

OPTIONS = {"num_draws": 2, "lanczos_steps": 6, "progress": False}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def operator():
  keras.utils.set_random_seed(0)
  inputs = keras.Input((3,), dtype="float64")
  hidden = keras.layers.Dense(4, "tanh", name="first", dtype="float64")(inputs)
  outputs = keras.layers.Dense(3, name="second", dtype="float64")(hidden)
  model = keras.Model(inputs, outputs)
  rng = np.random.default_rng(0)
  data = [(rng.standard_normal((k, 3)), rng.integers(0, 3, k)) for k in (6, 4)]
  return tf_hessian.HessianOperator(model, LOSS, data)


def alone(operator, block):
  return tf_hessian.HessianOperator(operator.model, LOSS, list(operator.batches), variables=block)


@pytest.mark.parametrize(
  ("by", "blocks"),
  [
    ("layer", {"first": "first", "second": "second"}),
    pytest.param(
      "variable",
      {"first/kernel": "first/kernel", "second/bias": "second/bias"},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_each_is_the_spectrum_of_an_operator_of_the_block(operator, by, blocks):
  found = block_spectra(operator, by, **OPTIONS)
  assert set(blocks) <= set(found)
  for name, variables in blocks.items():
    expected = tf_hessian.spectral_density(alone(operator, variables), **OPTIONS)
    assert found[name].parameter_names == expected.parameter_names
    assert found[name].num_parameters == expected.num_parameters
    # The same Lanczos steps but for the rounding of the products, which few steps multiply little.
    for a, b in zip(found[name].nodes, expected.nodes, strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    assert abs(found[name].loss - expected.loss) <= 1e-14


def test_all_blocks_share_the_functions(operator):
  block_spectra(operator, **OPTIONS)
  counts = [p.tracing_count for p in operator.program._columns.values()]
  block_spectra(operator, **OPTIONS)
  assert [p.tracing_count for p in operator.program._columns.values()] == counts


def test_interrupted_run_goes_on_bitwise(operator, tmp_path, monkeypatch):
  whole = block_spectra(operator, **OPTIONS)
  products = type(operator).products
  calls = []

  def interrupted(self, vectors, **kwargs):
    calls.append(1)
    if len(calls) == 10:  # in the second layer
      raise KeyboardInterrupt
    return products(self, vectors, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(type(operator), "products", interrupted)
    with pytest.raises(KeyboardInterrupt):
      block_spectra(operator, workdir=tmp_path, **OPTIONS)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["000_first", "001_second"]
  found = block_spectra(operator, workdir=tmp_path, **OPTIONS)
  for name in whole:
    for a, b in zip(found[name].diagonals, whole[name].diagonals, strict=True):
      np.testing.assert_array_equal(a, b)


def test_foreign_folder_is_refused_before_anything_is_computed(operator, tmp_path, monkeypatch):
  (tmp_path / "001_second").mkdir()
  (tmp_path / "001_second" / "thesis.txt").write_text("mine")
  monkeypatch.setattr(type(operator), "products", None)
  with pytest.raises(ValueError, match="thesis"):
    block_spectra(operator, workdir=tmp_path, **OPTIONS)


def test_folder_of_other_blocks_is_refused(operator, tmp_path):
  block_spectra(operator, workdir=tmp_path, **OPTIONS)
  with pytest.raises(ValueError, match="000_first, 001_second, which is none of these blocks"):
    block_spectra(operator, "variable", workdir=tmp_path, **OPTIONS)


def test_gradient_seen_by_each_block(operator):
  found = block_spectra(operator, start="gradient", lanczos_steps=3, num_draws=1, progress=False)
  assert all(s.start == "gradient" for s in found.values())


def test_it_is_shown_and_drawn(operator, tmp_path):
  found = block_spectra(operator, **OPTIONS)
  text = str(found)
  assert "first" in text and "second" in text and "trace" in text
  found.plot(tmp_path / "layers.png", sigma_squared=1e-3)
  assert (tmp_path / "layers.png").stat().st_size > 5000
  assert len(found) == 2


class Repeating(keras.Model):
  """A model whose hidden layers have the same path."""

  def __init__(self):
    super().__init__()
    self.hidden = [keras.layers.Dense(3, "tanh", name="x") for _ in range(2)]
    self.last = keras.layers.Dense(2)

  def call(self, inputs):
    for layer in self.hidden:
      inputs = layer(inputs)
    return self.last(inputs)


@pytest.mark.slow
def test_layers_of_one_path_are_blocks_of_their_own():
  model = Repeating()
  x = np.random.default_rng(0).standard_normal((6, 3)).astype("float32")
  y = model(x) + 1
  operator = tf_hessian.HessianOperator(model, "mse", [(x, y)])
  found = block_spectra(operator, num_draws=1, lanczos_steps=12, check=False, progress=False)
  assert [s.num_parameters for s in found.values()] == [12, 12, 8]
  first, second, _ = found
  assert second == f"{first}_1"
  dense = tf_hessian.dense_hessian(operator, progress=False)
  for spectrum, part in zip(found.values(), (slice(12), slice(12, 24)), strict=False):
    largest = np.linalg.eigvalsh(dense[part, part])[-1]
    assert spectrum.largest(1)[0] == pytest.approx(largest, rel=1e-4)


def below_zero(text):
  """Returns dict: block -> what its row has below zero."""
  rows = [line.split() for line in text.splitlines()[1:]]
  return {row[0]: float(row[4]) for row in rows}


def test_zeros_are_not_counted_below_zero():
  def loss(p, batch):  # 30 of 40 eigenvalues of the first block are zero, but for rounding
    y = tf.linalg.matvec(batch, p[0])
    return tf.reduce_mean(y**2) + 0.0 * tf.reduce_sum(p[1]) - tf.reduce_sum(p[2] ** 2) / 40

  point = [tf.Variable(np.ones(40, "float32"), name=name) for name in ("low", "unused", "down")]
  data = [np.random.default_rng(0).standard_normal((10, 40)).astype("float32")]
  operator = tf_hessian.HessianOperator(point, loss, data)
  found = block_spectra(operator, num_draws=3, lanczos_steps=15, progress=False, check=False)
  assert below_zero(str(found)) == {"low": 0.0, "unused": 0.0, "down": 1.0}


def test_unknown_blocks_are_named(operator):
  with pytest.raises(ValueError, match="by: .*layer.*variable"):
    block_spectra(operator, "tensor")


def test_matrix_without_a_model_is_refused():
  with pytest.raises(TypeError, match="operator"):
    block_spectra(np.eye(3))
