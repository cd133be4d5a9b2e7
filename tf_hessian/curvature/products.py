"""Functions of one batch: its loss, gradient and Hessian-vector products, as sums.

Each is a pure function (parameters, context, batch, seed, ...) -> tensors, made from an
`Objective`. `ratios` are the factors that the batch's terms S_tb enter with, so that all terms can
be divided by the weight of the first once everything is summed: c_t W_0 / W_t.
"""

import tensorflow as tf

MODES = ("forward_over_backward", "backward_over_backward")


def loss_sums(objective):
  """Returns (parameters, context, batch, seed) -> [S_tb ..., W_tb ...], scalars."""

  def function(params, context, batch, seed):
    terms = objective.terms(params, context, batch, seed)
    return [s for s, _ in terms] + [w for _, w in terms]

  return function


def batch_gradient(objective):
  """Returns (parameters, context, batch, seed, ratios) -> gradient, like the parameters."""

  def function(params, context, batch, seed, ratios):
    with tf.GradientTape() as tape:
      tape.watch(params)
      loss = _combined(objective, params, context, batch, seed, ratios)
    return _dense_gradient(tape, loss, params)

  return function


def batch_product(objective, mode):
  """Returns (parameters, context, batch, seed, ratios, v) -> H_b v, like the parameters.

  Args:
    objective: an `Objective`.
    mode: "forward_over_backward" differentiates the gradient along v by forward accumulation;
      "backward_over_backward" differentiates its inner product with v.
  """
  gradient = batch_gradient(objective)

  def forward_over_backward(params, context, batch, seed, ratios, v):
    with tf.autodiff.ForwardAccumulator(params, v) as accumulator:
      grads = gradient(params, context, batch, seed, ratios)
    tangents = accumulator.jvp(grads, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return _dense(tangents, params)

  def backward_over_backward(params, context, batch, seed, ratios, v):
    with tf.GradientTape() as tape:
      tape.watch(params)
      grads = gradient(params, context, batch, seed, ratios)
    # output_gradients= gives the inner product with v without making it.
    return _dense_gradient(tape, grads, params, output_gradients=v)

  return {
    "forward_over_backward": forward_over_backward,
    "backward_over_backward": backward_over_backward,
  }[mode]


def batch_products(objective, mode):
  """Returns (parameters, context, batch, seed, ratios, V) -> H_b V.

  The columns are the first dimension of each tensor of V and of the result. The products are one
  vectorized call, in which everything that does not depend on V is computed once.
  """
  product = batch_product(objective, mode)

  def function(params, context, batch, seed, ratios, columns):
    return tf.vectorized_map(
      lambda v: product(params, context, batch, seed, ratios, list(v)), tuple(columns)
    )

  return function


def _combined(objective, params, context, batch, seed, ratios):
  terms = objective.terms(params, context, batch, seed)
  total = None
  for t, (value, _) in enumerate(terms):
    part = value * tf.cast(ratios[t], value.dtype)
    total = part if total is None else total + tf.cast(part, total.dtype)
  return total


def _dense_gradient(tape, target, sources, output_gradients=None):
  grads = tape.gradient(
    target,
    sources,
    output_gradients=output_gradients,
    unconnected_gradients=tf.UnconnectedGradients.ZERO,
  )
  return _dense(grads, sources)


def _dense(values, like):
  """Embeddings have sparse gradients (IndexedSlices), of unknown shape; the sums are dense."""
  tensors = [tf.convert_to_tensor(v) for v in values]
  for tensor, parameter in zip(tensors, like, strict=True):
    tensor.set_shape(parameter.shape)
  return tensors
