"""The compiled passes of one matrix: its loss, its gradient, its products."""

from __future__ import annotations

from collections.abc import Callable
import functools
import re
from typing import TYPE_CHECKING, Any

from absl import logging
import numpy as np
import tensorflow as tf

from tf_hessian.curvature import choices, products, second_order, soundness
from tf_hessian.curvature.outputs import OutputsError
from tf_hessian.curvature.passes import DataPass
from tf_hessian.distribute import engines

if TYPE_CHECKING:
  from tf_hessian.curvature.batches import Batches
  from tf_hessian.curvature.objective import Objective
  from tf_hessian.distribute.protocols import Engine

# What TensorFlow raises while it differentiates what it can't.
_OF_GRAPHS = re.compile(
  r"'SymbolicTensor' object has no attribute 'numpy'|not 'SymbolicTensor'"
  r"|symbolic `tf.Tensor` as a Python|symbolic tf.Tensor \(.*\) to a numpy array"
)
_UNSUPPORTED = (LookupError, NotImplementedError, TypeError, ValueError)


class Program:
  """The passes of one matrix.

  Each is built when it is first asked for.

  Args:
    objective: the `Objective` whose loss and gradient they sum.
    batches: the `Batches`.
    engine: the `Engine` that runs them.
    batch_product: (objective, mode, blocks, connected) -> the function that makes products with a
      batch's matrix, as `operator.CurvatureOperator.batch_product`.
    seed: seed of dropout and other random layers.
    deterministic: whether passes are bitwise repeatable.
    jit_compile: whether functions of a batch are compiled by XLA.
    blocks: number of blocks whose activations are recomputed, or None.

  Attributes:
    mode: how the product is differentiated; to be set before it is built.
    n: number of parameters.
    sizes: list of the variables' numbers of entries.
  """

  def __init__(
    self,
    objective: Objective,
    batches: Batches,
    engine: Engine,
    batch_product: Callable,
    *,
    seed: int,
    deterministic: bool,
    jit_compile: bool,
    blocks: int | None,
  ) -> None:
    self.objective = objective
    self.batches = batches
    self.engine = engine
    self.blocks = blocks
    self.mode: str | None = None
    self.sizes = [int(np.prod(s)) for s in objective.shapes]
    self.n = sum(self.sizes)
    self._batch_product = batch_product
    self._options: dict[str, Any] = {
      "seed": seed,
      "deterministic": deterministic,
      "jit_compile": jit_compile,
    }
    self._vectorized: bool | None = None
    self._columns: dict[int | None, DataPass] = {}
    self._connected = [False] * len(objective.names)
    self._looked_at_influence = False
    self.straight = False  # single products with the bits of earlier versions

  def on_one_device(self) -> Program:
    """Returns a program whose passes this process makes alone."""
    if isinstance(self.engine, engines.OneDevice):
      return self
    engine = engines.make_engine(None)
    result = Program(
      self.objective,
      self.batches,
      engine,
      self._batch_product,
      blocks=self.blocks,
      **self._options,
    )
    result.mode = self.mode
    return result

  @functools.cached_property
  def loss(self) -> DataPass:
    """The pass () -> sums of the loss's terms, then their weights.

    Raises:
      ValueError: if the model or its loss needs values of tensors in Python.
    """
    try:
      return self._build("loss", products.loss_sums(self.objective), list)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as e:
      if not _OF_GRAPHS.search(str(e)):
        raise
      raise ValueError(
        "the model or its loss needs values of tensors in Python, as numpy(), float() and `if` do, "
        f"which graphs have not got: write it with keras.ops or tf ({second_order.plain_text(e)})"
      ) from e

  @functools.cached_property
  def gradient(self) -> DataPass:
    """The pass (ratios) -> sum of the gradients.

    Raises:
      DifferentiationError: if an operation has no gradient, or no variable has influence.
    """
    if self.blocks:
      function = products.batch_gradient_by_blocks(self.objective, self.blocks, self.note)
    else:
      function = products.batch_gradient(self.objective, self.note)
    try:
      result = self._build("gradient", function, lambda ratios: [ratios], self.ratios_spec)
    except _UNSUPPORTED as e:
      raise second_order.explain(e, self.loss.graphs, self.objective.layers) from e
    self._look_at_influence()
    return result

  @functools.cached_property
  def product(self) -> DataPass:
    """The pass (ratios, vector (n,)) -> sum of the products.

    Raises:
      DifferentiationError: if an operation has no second derivative, or no variable has influence.
    """
    return self.along("product", self._product_of_batch(), as_shared=self.alike)

  @functools.cached_property
  def straight_product(self) -> DataPass:
    """`product` with the bits of version 0.1.0."""
    return self.along("product", self._product_of_batch())

  def along(self, name: str, function: Callable, /, *, as_shared: bool = False) -> DataPass:
    """Returns a pass with a vector.

    It is (ratios, vector (n,)) -> sum of what a function makes of the vector.

    Args:
      name: name of the pass.
      function: (parameters, context, batch, seed, ratios) -> v -> list of tensors like v, which is
        one like the parameters.
      as_shared: as in `products.of_one`.

    Raises:
      DifferentiationError: if an operation has no second derivative, or no variable has influence.
    """
    return self._build_product(
      name,
      products.of_one(function, as_shared=as_shared),
      lambda r, v: [r, self._split(v)],
      tf.TensorSpec((self.n,), tf.float64),
    )

  def columns(self, count: int, /) -> DataPass:
    """Returns the pass for the products with several vectors.

    It is (ratios, vectors (count, n), number of them used) -> sums of the products.

    Args:
      count: number of vectors that a pass takes.

    Raises:
      DifferentiationError: if an operation has no second derivative, or no variable has influence.
    """
    key = None if self.takes_any_number else count
    if key not in self._columns:
      self._columns[key] = self._build_product(
        "columns" if key is None else f"columns {key}",
        products.of_several(self._product_of_batch(), vectorized=self.vectorized),
        lambda r, v, used: [r, self._split(v), used],
        tf.TensorSpec((key, self.n), tf.float64),
        tf.TensorSpec((), tf.int32),
      )
    return self._columns[key]

  @property
  def takes_any_number(self) -> bool:
    """Whether one pass of columns serves for any number of vectors.

    Vectorized operations and XLA's are made for one number, and the workers of a cluster agree on
    the size of sums.
    """
    return not (self.vectorized or self._options["jit_compile"] or self.engine.is_cluster)

  @property
  def alike(self) -> bool:
    """Whether a single product has the bits of shared ones."""
    return self.takes_any_number and self.sharing_gains

  @property
  def by_columns(self) -> bool:
    """Whether single products are made by the pass of columns.

    They are where that has been built, and no other: then none has to be.
    """
    built = vars(self)
    return self.alike and bool(self._columns) and not self.straight and "product" not in built

  @property
  def sharing_gains(self) -> bool:
    """Whether vectors that share a pass take less time.

    Recomputed blocks and backward over backward compute all anew for each, and so only share the
    reading of data and what moves between workers.
    """
    alone = self.blocks or self.mode != "forward_over_backward"
    return not alone or self.engine.is_cluster or not self.batches.cached

  @property
  def vectorized(self) -> bool:
    """Whether several products are computed by the same, vectorized operations.

    By default where that is faster, with small tensors (`choices.can_be_vectorized`).
    """
    if self._vectorized is None:
      self._vectorized = choices.can_be_vectorized(self)
    return self._vectorized

  @vectorized.setter
  def vectorized(self, value: bool) -> None:
    if value and not self._vectorized:
      choices.check_vectorized(self)
    if value != self._vectorized:
      self._columns.clear()
      vars(self).pop("product", None)  # whose bits may have to be others
    self._vectorized = value

  @property
  def ratios_spec(self) -> tf.TensorSpec:
    """Spec of the factors of the loss's terms: (terms,) float64."""
    return tf.TensorSpec((len(self.objective.coefficients),), tf.float64)

  def _product_of_batch(self):
    return self._batch_product(self.objective, self.mode, blocks=self.blocks, connected=self.note)

  def _build(self, name, function, prepare, *specs):
    return DataPass(
      name,
      function,
      self.objective,
      self.batches,
      self.engine,
      prepare=prepare,
      signature=specs,
      **self._options,
    )

  def _build_product(self, name, function, prepare, *specs):
    layers = self.objective.layers
    problems = [soundness.transform_problem(*way) for way in self.loss.ways()]
    if self.blocks or self.mode == "backward_over_backward":  # or it is seen when it is linearized
      problems += [soundness.gradient_problem(*way) for way in self.gradient.ways()]
    for problem in filter(None, problems):
      raise second_order.explain(problem, (), layers)
    try:
      result = self._build(name, function, prepare, self.ratios_spec, *specs)
    except OutputsError:
      raise
    except _UNSUPPORTED as e:
      raise second_order.explain(e, self.gradient.graphs, layers) from e
    self._look_at_influence()
    return result

  def _split(self, v):
    """Splits vectors (..., n) into tensors like the parameters, in their dtypes."""
    parts = tf.split(v, self.sizes, axis=-1)
    # Not -1, which says nothing of a variable without entries.
    count = [tf.shape(v)[0] if v.shape[0] is None else v.shape[0]] if v.shape.rank > 1 else []
    return [
      tf.reshape(tf.cast(part, p.dtype), [*count, *p.shape])
      for part, p in zip(parts, self.objective.parameters, strict=True)
    ]

  def note(self, connected: list[bool], /) -> None:
    """Notes on which parameters the loss depends, when a function is traced."""
    self._connected = [a or b for a, b in zip(self._connected, connected, strict=True)]

  def _look_at_influence(self):
    """Refuses a loss that no variable has influence on.

    That is known once it has been traced. Warns of single variables without influence.
    """
    if self._looked_at_influence:
      return
    self._looked_at_influence = True
    names = self.objective.names
    without = [n for n, c in zip(names, self._connected, strict=True) if not c]
    if len(without) == len(names):
      raise second_order.DifferentiationError(
        f"no variable has influence on the loss that TensorFlow can differentiate (variables: "
        f"{', '.join(without)}): do its values go through NumPy, integers or tf.stop_gradient, or "
        "does the loss read other variables?"
      )
    if without:
      logging.warning(
        "variables without influence on the loss: %s. They count among the n parameters, with "
        "zeros in H, which add to the density at 0; leave them out with variables=",
        ", ".join(without),
      )
