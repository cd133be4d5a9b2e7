"""The Fisher information matrix of a model's outputs.

The loss is taken as the negative log likelihood of the targets, so that the model says how they are
distributed. With s the gradient of the loss of one target in the outputs z, and J the derivative of
the outputs in the parameters,

  F = mean of J' E[s s'] J.

The expectation is over targets drawn from the model: in closed form ("exact"), or over some drawn
ones ("sampled"). With the targets of the data ("empirical") it is the mean of the outer products of
the gradients of the examples. See Amari (1998), and Kunstner et al. (2019) on the last.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tf_hessian.curvature import given_losses, output_checks, pullback
from tf_hessian.curvature.outputs import OutputsError
from tf_hessian.curvature.outputs_operator import OutputsOperator
from tf_hessian.numerics import checks

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective

KINDS = ("exact", "sampled", "empirical")
_SOFTMAX = frozenset({"categorical_crossentropy", "sparse_categorical_crossentropy"})
_SIGMOID = frozenset({"binary_crossentropy"})
_SQUARES = frozenset({"mean_squared_error"})


class FisherOperator(OutputsOperator):
  """The Fisher information matrix over a data set.

  Its arguments, attributes and methods are those of a `HessianOperator`, and two more. Penalties
  don't count, since they are of no example.

  Exact ones equal the Gauss-Newton matrix of the loss without penalties. They and sampled ones are
  of Keras's cross entropies of logits, and of its mean squared error. Of the last, and of the
  binary cross entropy, each unit is a target of its own: a normal one of variance 1/2, or one of
  two classes. Empirical ones are of any loss of single examples; an example is a row of a batch,
  with all its positions and outputs, and counts by its weight.

  >>> import keras
  >>> import numpy as np
  >>> import tf_hessian
  >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
  >>> data = [(np.eye(2, dtype="float32"), np.ones((2, 1), "float32"))]
  >>> tf_hessian.FisherOperator(model, "mean_squared_error", data) @ np.array([1.0, 2.0])
  array([1., 2.])
  """

  matrix = "fisher"
  what = "Fisher matrix"

  def __init__(
    self,
    model: Any,
    loss: Any = None,
    dataset: Any = None,
    *,
    kind: str = "exact",
    samples: int = 1,
    **options: Any,
  ) -> None:
    """Reads the data set once, and prepares the functions without running them.

    Args:
      model: that of a `HessianOperator`.
      loss: likewise.
      dataset: likewise.
      kind: "exact", "sampled" or "empirical".
      samples: number of targets to draw for each of the data; for "sampled" alone. The seed is that
        of the operator, and the targets are the same in each product.
      **options: the other arguments of a `HessianOperator`.

    Raises:
      TypeError, ValueError: for what can't be measured, saying what was expected.
    """
    checks.check_choice("kind", kind, KINDS)
    checks.check_count("samples", samples)
    if samples != 1 and kind != "sampled":
      raise ValueError(f"samples: is for kind='sampled', got kind={kind!r}")
    self.matrix_options = {"kind": kind}
    if kind == "sampled":
      self.matrix_options["samples"] = int(samples)
    super().__init__(model, loss, dataset, **options)

  def _check_objective(self, blocks):
    super()._check_objective(blocks)
    if self.matrix_options["kind"] == "empirical":
      return
    for name, loss in zip(self.objective.term_names, self.objective.losses, strict=False):
      if loss is None:
        output_checks.check_losses([])
      if given_losses.loss_function_name(loss) not in _SOFTMAX | _SIGMOID | _SQUARES:
        raise _unknown(name, loss)

  def _look_at_outputs(self):
    output_checks.warn_of_negative_weights(self.program, self.what)
    if self.matrix_options["kind"] == "empirical":
      output_checks.refuse_coupled(self.program)

  @property
  def _output_matrix(self):
    # Seeds of random layers are folded from the batch's by smaller numbers.
    random = self.program.loss.draws_random_numbers()
    drawn = self.objective.description.get("random_layers", 0) if random else 0
    about = _of_terms(self.objective) | {"drawn": drawn}
    return functools.partial(_MATRICES[self.matrix_options["kind"]], self.matrix_options | about)


class _OutputMatrix:
  """A matrix of outputs alone, which is linear as it stands.

  Attributes:
    chosen, kept: those of a `pullback.OutputMatrix`.
  """

  def __init__(self, chosen):
    self.chosen = chosen
    self.kept = list(range(len(chosen)))

  def by_linearization(self, _):
    return self.times

  def by_tape(self, _):
    return self.times


class _Likelihood(_OutputMatrix):
  """E[s s'] of each target, in closed form or by drawn ones.

  Each output has a function t -> w E[s s'] t.

  Args:
    options: the operator's, and "drawn": how many numbers were folded into the seed already.
    cut, tape, loss, params, seed, ratios: as in `pullback.product`.

  Raises:
    ValueError: for a loss whose distribution of targets isn't known.
  """

  def __init__(self, options, cut, tape, loss, params, seed, ratios):
    del tape, loss, params
    output_checks.check_losses(cut.losses)
    samples, chosen, self._functions = options.get("samples"), [], []
    for k, losses in enumerate(cut.losses):
      family, z = _family(losses)
      weights = tf.cast(ratios[k], z.dtype) * tf.cast(losses.weights, z.dtype)[..., tf.newaxis]
      folded = tf.random.experimental.stateless_fold_in(seed, options["drawn"] + k)
      chosen.append(next(i for i, place in enumerate(cut.places) if place is z))
      there, back = _units_last(losses, z)
      self._functions.append((there, family(there(z), weights, samples, folded), back))
    super().__init__(chosen)

  def times(self, tangents):
    return [
      back(f(there(t))) for (there, f, back), t in zip(self._functions, tangents, strict=False)
    ]


class _Empirical(_OutputMatrix):
  """g g' / w of each example.

  g is the gradient of its loss in all outputs, and w its weight: of several outputs, its shares in
  their weights, averaged by the outputs' coefficients.

  Args:
    options: "coefficients" of the loss's terms, and "names" of the parameters.
    cut, tape, loss, params, seed, ratios: as in `pullback.product`.

  Raises:
    ValueError: if the losses are not of single examples, or of more than the outputs.
  """

  def __init__(self, options, cut, tape, loss, params, seed, ratios):
    del seed
    for losses in cut.losses:
      output_checks.check_single(losses)
    output_checks.check_losses(cut.losses)
    output_checks.check_of_outputs(cut.losses, tape, params, options["names"])
    found = tape.gradient(loss, cut.places)
    super().__init__([i for i, g in enumerate(found) if g is not None])
    self._gradients = [tf.convert_to_tensor(found[i]) for i in self.chosen]
    output_checks.check_rows(cut.losses[0], self._gradients)
    weights = [_rows_summed(losses.weights) for losses in cut.losses]
    self._weights = weights[0]
    size = sum(map(abs, options["coefficients"][: len(weights)]))
    if len(weights) > 1 and size:
      parts = [tf.abs(ratios[k]) * tf.cast(w, tf.float64) for k, w in enumerate(weights)]
      self._weights = tf.add_n(parts) / size

  def times(self, tangents):
    pairs = list(zip(self._gradients, tangents, strict=False))
    along = sum(tf.reduce_sum(_rows(g * t), axis=1) for g, t in pairs)
    factors = tf.math.divide_no_nan(along, tf.cast(self._weights, along.dtype))
    return [g * tf.reshape(factors, [-1] + [1] * (g.shape.rank - 1)) for g, _ in pairs]


def empirical(objective: Objective, *arguments: Any) -> pullback.OutputMatrix:
  """Returns the matrix of outputs of the empirical Fisher matrix.

  Args:
    objective: the `Objective`.
    *arguments: (cut, tape, loss, ...) as in `pullback.product`.
  """
  return _Empirical(_of_terms(objective), *arguments)


def _of_terms(objective):
  return {"coefficients": objective.coefficients, "names": objective.names}


_MATRICES = {"exact": _Likelihood, "sampled": _Likelihood, "empirical": _Empirical}


def _rows(x):
  return tf.reshape(x, [tf.shape(x)[0], -1])


def _rows_summed(weights):
  return tf.reduce_sum(weights, axis=list(range(1, weights.shape.rank)))


def _units_last(losses, z):
  """Returns how outputs are brought to shape (*losses, units), and back.

  A loss may be along another axis than the last. Outputs (..., units, 1) with targets (..., units)
  are taken by Keras without the last axis.
  """
  rank = losses.values.shape.rank
  axis = given_losses.loss_axis(losses.loss) % z.shape.rank
  if z.shape.rank == rank + 2 and z.shape[-1] == 1 and axis == z.shape.rank - 1:
    return (lambda t: tf.squeeze(t, -1)), (lambda t: tf.expand_dims(t, -1))
  if z.shape.rank != rank + 1:
    raise OutputsError(
      f"{losses.name}: {given_losses.loss_name(losses.loss)} of outputs of shape {z.shape} has "
      f"losses of shape {losses.values.shape}, so it isn't known which outputs are of one target; "
      "give targets of the outputs' shape"
    )
  if axis == rank:
    return tf.identity, tf.identity
  there = [i for i in range(rank + 1) if i != axis] + [axis]
  back = [there.index(i) for i in range(rank + 1)]
  return (lambda t: tf.transpose(t, there)), (lambda t: tf.transpose(t, back))


def _family(losses):
  """Returns a loss's function, and the outputs that it is in.

  The function makes t -> w E[s s'] t.
  """
  name = given_losses.loss_function_name(losses.loss)
  if name not in _SQUARES | _SOFTMAX | _SIGMOID:
    raise _unknown(losses.name, losses.loss)
  if losses.values is None:
    raise OutputsError(
      f"{losses.name}: {given_losses.loss_name(losses.loss)} gives one number for the whole batch, "
      "so it isn't known which outputs are of one example; give outputs and targets a last axis, "
      "of one unit"
    )
  if name in _SQUARES:
    return _squares, losses.outputs
  logits = getattr(losses.outputs, "_keras_logits", None)
  if logits is None and getattr(losses.loss, "from_logits", False):
    logits = losses.outputs
  if logits is None:
    raise OutputsError(
      f"{losses.name}: {given_losses.loss_name(losses.loss)} is of probabilities, which Keras "
      "clips; let a softmax or sigmoid activation come last in the model, or give logits and "
      "from_logits=True"
    )
  return (_softmax if name in _SOFTMAX else _sigmoid), logits


def _unknown(name, loss):
  return OutputsError(
    f"{name}: of {given_losses.loss_name(loss)} it isn't known how it distributes targets; exact "
    "and sampled Fisher matrices are of Keras's categorical and binary cross entropies and its "
    "mean squared error; kind='empirical' is of any loss"
  )


# Each is (outputs z, weights (..., 1), number of samples or None, seed) -> t -> w E[s s'] t.
# Targets are drawn in float64, so that they don't depend on the type that the model computes in.


def _softmax(z, weights, samples, seed):
  p = tf.nn.softmax(z)
  if samples is None:  # E[s s'] = diag(p) - p p'
    return lambda t: weights * (p * t - p * _dot(p, t))
  logits = tf.cast(tf.reshape(z, [-1, z.shape[-1]]), tf.float64)
  drawn = tf.random.stateless_categorical(logits, samples, seed)
  f = tf.reduce_mean(tf.one_hot(drawn, z.shape[-1], dtype=z.dtype), axis=1)
  f = tf.reshape(f, tf.shape(z))  # of the classes: the mean of (p - e)(p - e)', e = 1 of the drawn
  return lambda t: weights * (p * _dot(p - f, t) - f * _dot(p, t) + f * t)


def _sigmoid(z, weights, samples, seed):
  p = tf.sigmoid(z)
  if samples is None:
    variance = p * (1 - p)
  else:
    p64 = tf.cast(p, tf.float64)
    shape = tf.concat([[samples], tf.shape(z)], 0)
    drawn = tf.random.stateless_uniform(shape, seed, dtype=tf.float64) < p64
    f = tf.reduce_mean(tf.cast(drawn, z.dtype), axis=0)
    variance = (1 - f) * p**2 + f * (1 - p) ** 2
  return _of_units(z, weights, variance)


def _squares(z, weights, samples, seed):
  if samples is None:
    return _of_units(z, weights, tf.constant(2, z.dtype))
  shape = tf.concat([[samples], tf.shape(z)], 0)
  noise = tf.random.stateless_normal(shape, seed, dtype=tf.float64)  # of variance 1, not 1/2
  return _of_units(z, weights, tf.cast(2 * tf.reduce_mean(noise**2, axis=0), z.dtype))


def _of_units(z, weights, variance):
  """Returns t -> w E[s^2] t / units.

  The losses are means over units.
  """
  factor = weights * variance / tf.cast(tf.shape(z)[-1], z.dtype)
  return lambda t: factor * t


def _dot(a, b):
  return tf.reduce_sum(a * b, axis=-1, keepdims=True)
