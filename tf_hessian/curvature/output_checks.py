"""Checks of losses as functions of the outputs, on one batch.

A Gauss-Newton matrix is positive semidefinite if the loss is convex in the outputs, and the
empirical Fisher matrix is of losses of single examples. Keras's own losses are known; of others,
both are found out on one batch, that of the most data, whose loss is run eagerly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
from typing import TYPE_CHECKING, Literal

from absl import logging
import numpy as np
import tensorflow as tf

from tf_hessian.curvature import given_losses, second_order
from tf_hessian.curvature.outputs import Cut, OutputsError
from tf_hessian.numerics import eigenpairs

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective
  from tf_hessian.curvature.outputs import Losses
  from tf_hessian.curvature.program import Program

CROSS_ENTROPIES = frozenset(
  {"categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy"}
)
# Of Keras's own losses, those that are convex in the outputs of each example by itself.
_CONVEX = CROSS_ENTROPIES | {
  *("mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "kl_divergence", "poisson"),
  *("hinge", "squared_hinge", "categorical_hinge"),
}
_looked_at = contextvars.ContextVar("looked_at", default=frozenset[str]())
_PRODUCTS = 60  # most products of a search for the least eigenvalue
# Eigenvalues of sums of a few terms are right to this many rounding errors of the largest.
_ROUNDINGS = 100


@contextlib.contextmanager
def looked_at(what: Literal["loss", "data"], /) -> Iterator[None]:
  """Makes operators whose loss, or data, have been looked at."""
  token = _looked_at.set(_looked_at.get() | {what})
  try:
    yield
  finally:
    _looked_at.reset(token)


def is_known(objective: Objective, /) -> bool:
  """Returns whether all losses are known to be convex, of single examples.

  Or they have been looked at.
  """
  if "loss" in _looked_at.get():
    return True
  names = {given_losses.loss_function_name(loss) for loss in objective.losses}
  # Along another axis a loss may be of several examples.
  return names <= _CONVEX and all(given_losses.loss_axis(x) == -1 for x in objective.losses)


def warn_of_negative(program: Program, /) -> None:
  """Warns of losses that are not convex in the outputs.

  They are looked at on one batch.
  """
  if is_known(program.objective):
    return
  batch = _Eager(program)
  for loss, name in batch.losses():
    least, greatest = batch.extreme_eigenvalues(loss)
    if least < -_ROUNDINGS * batch.eps * max(abs(greatest), abs(least)):
      logging.warning(
        "%s: it is not convex in the outputs: on one batch its Hessian in them has "
        "eigenvalues from %.3g to %.3g, so the Gauss-Newton matrix has negative eigenvalues too",
        name,
        least,
        greatest,
      )


def warn_of_negative_weights(program: Program, what: str, /) -> None:
  """Warns of negative sample weights, with which a matrix is not semidefinite.

  Args:
    program: of the operator.
    what: the matrix, in words.
  """
  batch = program.batches.negative_weights
  if batch is not None and "data" not in _looked_at.get():
    logging.warning(
      "sample_weight: batch %d has negative ones, so the %s may have negative eigenvalues",
      batch,
      what,
    )


def refuse_coupled(program: Program, /) -> None:
  """Refuses losses that are not of single examples, on one batch.

  Raises:
    ValueError: if there are no losses of single examples, or they depend on others' outputs.
  """
  if is_known(program.objective):
    return
  batch = _Eager(program)
  check_losses(batch.cut.losses)
  for losses in batch.cut.losses:
    check_single(losses)
    if batch.couples(losses.values):
      raise ValueError(
        f"{losses.name}: {given_losses.loss_name(losses.loss)} of an example depends on the "
        "outputs of others in its batch, so there are no gradients of single examples; the "
        "Gauss-Newton matrix has no need of them"
      )


def check_losses(found: Sequence[Losses], /) -> None:
  """Raises ValueError if the losses of single examples are not known."""
  if not found:
    raise OutputsError(
      "loss: compute_loss() gives one number a batch, so the losses of examples aren't known; give "
      "the loss as loss="
    )


def check_single(losses: Losses, /) -> None:
  """Raises ValueError if an output's loss is one number a batch."""
  if losses.values is None:
    raise OutputsError(
      f"{losses.name}: it gives one number a batch, so there are no gradients of examples; return "
      "one loss an example"
    )


def check_of_outputs(
  found: Sequence[Losses],
  tape: tf.GradientTape,
  params: Sequence[tf.Tensor],
  names: Sequence[str],
  /,
) -> None:
  """Refuses losses that read parameters besides the outputs.

  Args:
    found: the losses of each output.
    tape: that has recorded them, and watches the parameters.
    params: the parameters.
    names: their names.

  Raises:
    ValueError: names the first parameter.
  """
  for losses in found:
    read = [g is not None for g in tape.gradient(losses.values, params)]
    if any(read):
      raise OutputsError(
        f"{losses.name}: {given_losses.loss_name(losses.loss)} reads {names[read.index(True)]!r} "
        "besides the model's outputs, so the gradients of single examples are not known by these; "
        "let the model return what it reads as one more output"
      )


def check_rows(losses: Losses, gradients: Sequence[tf.Tensor], /) -> None:
  """Raises ValueError unless all outputs have a row for each example."""
  count = tf.convert_to_tensor(losses.values).shape[:1]
  for g in gradients:
    if g.shape.rank == 0 or not g.shape[:1].is_compatible_with(count):
      raise OutputsError(
        f"{losses.name}: an output of shape {g.shape} is of all {count[0]} examples together, so "
        "there are no gradients of single examples; give it a row for each example"
      )


def warn_of_probabilities(losses: Losses, /, layers: Sequence[str], said: set[str]) -> None:
  """Warns, once, of a cross entropy of probabilities, which Keras clips.

  Args:
    losses: the losses of an output, as they are traced.
    layers: names of the model's layers.
    said: names of the outputs that were warned of; one is added.
  """
  name = given_losses.loss_function_name(losses.loss)
  # A cast to float32, as of mixed precision, hides the logits from Keras.
  seen = getattr(losses.outputs, "dtype", None) in (tf.float32, tf.float64)
  logits = getattr(losses.loss, "from_logits", False) or (
    seen and hasattr(losses.outputs, "_keras_logits")
  )
  if name not in CROSS_ENTROPIES or logits or losses.name in said:
    return
  said.add(losses.name)
  source = losses.outputs.op.inputs[0] if losses.outputs.op.inputs else losses.outputs
  layer = second_order.layer_in(source.op.name, layers)
  logging.warning(
    "%s: %s is taken of probabilities%s, which Keras clips, and they are the outputs of the "
    "Gauss-Newton matrix; for that of logits, let a softmax or sigmoid activation of Keras come "
    "last, or give logits and from_logits=True",
    losses.name,
    given_losses.loss_name(losses.loss),
    f" of layer {layer!r}" if layer else "",
  )


class _Eager:
  """The loss of one batch, as a function of the outputs.

  Tapes have recorded it.

  Args:
    program: the `Program`.

  Attributes:
    cut: the `Cut` outputs.
    eps: rounding error of the outputs' type.
  """

  def __init__(self, program: Program) -> None:
    self._objective = program.objective
    self._tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
    inner = tf.GradientTape(persistent=True, watch_accessed_variables=False)
    self.cut = Cut()
    self.cut.watch = (self._tape, inner)
    [batch] = program.batches.largest(1)
    with self._tape:
      with inner:
        terms = program.loss.eagerly(self._objective.terms, 0, batch, cut=self.cut)
      # Dense inside, so that it is recorded: those of gathered outputs are sparse.
      self._gradients = [
        [g if g is None else tf.convert_to_tensor(g) for g in inner.gradient(s, self.cut.places)]
        for s, _ in terms
      ]
    kinds = [z.dtype.as_numpy_dtype for z in self.cut.places]
    self.eps = max((float(np.finfo(k).eps) for k in kinds), default=0.0)

  def losses(self) -> Iterator[tuple[int, str]]:
    """Yields the number and the name of each loss of outputs."""
    for k, name in enumerate(self._objective.term_names):
      if any(g is not None for g in self._gradients[k]):
        yield k, name

  def extreme_eigenvalues(self, loss: int) -> tuple[float, float]:
    """Returns the least and the greatest eigenvalue of a loss's Hessian."""
    kept = [i for i, g in enumerate(self._gradients[loss]) if g is not None]
    places = [self.cut.places[i] for i in kept]
    gradients = [self._gradients[loss][i] for i in kept]
    sizes = [int(tf.size(z)) for z in places]

    def product(v):
      parts = [
        tf.reshape(tf.cast(part, z.dtype), z.shape)
        for part, z in zip(np.split(v, np.cumsum(sizes)[:-1]), places, strict=True)
      ]
      found = self._tape.gradient(
        gradients, places, output_gradients=parts, unconnected_gradients="zero"
      )
      return np.concatenate([np.ravel(tf.convert_to_tensor(h)).astype(np.float64) for h in found])

    n = sum(sizes)
    if n == 1:
      return (float(product(np.ones(1))[0]),) * 2
    found = eigenpairs.top_eigenpairs(
      product, n, 1, 1, tolerance=1e-3, precision=self.eps, max_products=_PRODUCTS
    )
    return float(found.values[1]), float(found.values[0])

  def couples(self, values: tf.Tensor) -> bool:
    """Returns whether losses of a row depend on outputs of other rows."""
    count = len(values)
    for row in {0, count // 2, count - 1}:
      with self._tape:
        total = tf.reduce_sum(values[row])
      for g, z in zip(self._tape.gradient(total, self.cut.places), self.cut.places, strict=True):
        if g is None or z.shape.rank == 0 or len(z) != count:
          continue
        others = np.delete(np.asarray(tf.convert_to_tensor(g)), row, axis=0)
        if others.any():
          return True
    return False
