"""This package as a contender: see `worker` for what they have in common."""

import importlib.metadata

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers import making
from benchmarks.peers.problem import LABEL_SMOOTHING, split
import tf_hessian
from tf_hessian import GaussNewtonOperator, HessianOperator, spectral_density
from tf_hessian.curvature.precision import float64_model
from tf_hessian.distribute import machine

_OPERATORS = {
  "hessian": HessianOperator,
  "gauss_newton": GaussNewtonOperator,
}


class TfHessian:
  """`spectral_density` of an operator with its defaults, and its products."""

  runs_density = True
  shares_passes = True
  builds_while_running = True

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    model = making.model(problem.network)
    if tuple(v.path for v in model.trainable_variables) != problem.names:
      raise ValueError("the problem's variables are not the model's: write it again")
    for variable, value in zip(
      model.trainable_variables, split(problem.parameters, problem.shapes), strict=True
    ):
      variable.assign(value)
    if dtype == "float64":
      model = float64_model(model)
    inputs = problem.inputs
    if inputs.dtype == np.float32:  # images, not tokens
      inputs = inputs.astype(dtype)
    classes = model.output_shape[-1]
    arrays = inputs, np.eye(classes, dtype=dtype)[problem.labels]
    data = tf.data.Dataset.from_tensor_slices(arrays).batch(problem.batch_size)
    loss = keras.losses.CategoricalCrossentropy(
      from_logits=True, label_smoothing=LABEL_SMOOTHING, dtype=dtype
    )
    self._operator = _OPERATORS[matrix](model, loss, data, training=True)
    self._vector = self._vectors = None
    self._checked = False

  @property
  def versions(self):
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    return {"tf_hessian": tf_hessian.__version__, **packages}

  def set_up(self, draws, steps):
    """Does nothing: the first run checks the operator, and builds what it needs."""

  def mean_loss(self):
    return self._operator.loss()

  def gradient(self):
    return self._operator.gradient()

  def set_vector(self, v):
    self._vector = v

  def product(self):
    return self._operator @ self._vector

  def set_vectors(self, vectors):
    self._vectors = vectors

  def products(self):
    return self._operator.products(self._vectors, vectors_per_pass=len(self._vectors))

  def to_keras(self, result):
    return result

  def density(self, *, draws, steps, sigma, seed, low, high):  # noqa: ARG002
    """Returns (grid, values) and the `Spectrum`."""
    spectrum = spectral_density(
      self._operator,
      num_draws=draws,
      lanczos_steps=steps,
      seed=seed,
      check=not self._checked,
      progress=False,
    )
    self._checked = True
    grid, values, _ = spectrum.density(sigma**2)
    return grid, values, spectrum


def set_threads(threads):
  machine.set_threads(threads, threads)
