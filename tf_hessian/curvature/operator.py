"""Curvature of the mean loss over a data set: the Hessian.

Matrices are SciPy linear operators.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from tf_hessian.curvature import group, loading, output_checks, processes, products
from tf_hessian.curvature import objective as objective_lib
from tf_hessian.curvature.point import Point
from tf_hessian.curvature.program import Program
from tf_hessian.curvature.runner import Runner
from tf_hessian.distribute import engines
from tf_hessian.distribute.sharing import Sharing
from tf_hessian.numerics import checks

if TYPE_CHECKING:
  from tf_hessian.curvature.objective import Objective
  from tf_hessian.numerics.distributed_basis import DistributedBasis


class CurvatureOperator(Point, scipy.sparse.linalg.LinearOperator, abc.ABC):
  """A symmetric matrix of a whole data set.

  C = sum_b w_b C_b / sum_b w_b.

  A `scipy.sparse.linalg.LinearOperator`, float64, of shape (n, n): pass it to `eigsh`, `cg` and so
  on. The vector is the chosen variables, each flattened in C order, one after the other. Vectors
  are cast to the variables' dtypes for the product; each batch's product is summed in float64.

  Threads may share an operator; they take turns.

  Batch b has fixed examples and, where the model draws random numbers, a seed made from (seed, b).
  The model is never changed: moving statistics and seed generators stay. Its variables are read in
  every pass; what Python reads, such as a dropout rate, once, and runs refuse another.

  A matrix is a class of its own with one method, `batch_product`.

  Attributes:
    parameter_names: tuple of names, in the order of the vector.
    parameter_shapes: tuple of shapes.
    batches: the `Batches` it runs on.
    model: what it was made from.
    objective: the `Objective` whose loss it is of.
    deterministic: whether products with the same vector are made bitwise equal.
    precision: relative rounding error of the products' arithmetic, such as 1.2e-7 for float32.
    precision_dtype: name of the least precise type that the loss is computed in.
    precision_place: a phrase that says where that type comes in, empty if the variables have it
      themselves.
    precision_note: the same, but empty if the layers declare that they compute in that type.
    mode: how the product is differentiated, one of `products.MODES`.
    seed: seed of dropout and other random layers.
    engine: the `distribute.protocols.Engine` that runs its passes.
    sharing: how workers share the batches.
    startup_seconds: that reading the data and tracing the loss have taken.
    program: the `Program`: its passes.
    runner: the `Runner` of these.
    matrix: name of the matrix in configs and records.
    matrix_options: further arguments that make the matrix, as a dict of plain values.
    distributes_bases: whether workers can have parts of its Lanczos vectors.
  """

  matrix = "hessian"
  matrix_options: dict[str, Any] = {}
  distributes_bases = True

  def __init__(
    self,
    model: keras.Model | Objective | Sequence[tf.Tensor | tf.Variable],
    loss: Any = None,
    dataset: Any = None,
    *,
    loss_weights: Sequence[float] | dict | None = None,
    variables: Any = None,
    training: bool = False,
    seed: int = 0,
    num_batches: int | None = None,
    mode: str | None = None,
    deterministic: bool = True,
    cache_bytes: float = 2**30,
    strategy: tf.distribute.Strategy | Sharing | None = None,
    jit_compile: bool = False,
    recompute_blocks: int | None = None,
  ) -> None:
    """Reads the data set once, and prepares the functions without running them.

    Args:
      model: a built `keras.Model`, or a list of tensors or variables.
      loss: a Keras loss, its name or a function (targets, outputs) -> losses, or several by output;
        for a list of tensors, a function (parameters, batch). None for what `fit` minimises. All
        forms are in `objective.build_objective`.
      dataset: `tf.data.Dataset` of batches (inputs, targets[, sample_weight]), or a list of them;
        a tuple of such arrays, which are cut into batches of 128; or a `keras.utils.PyDataset`.
      loss_weights: coefficients of several outputs' losses, structured like `loss`; None for 1
        each, or for those compiled if `loss` is None.
      variables: the block of the matrix: a variable, layer, name or pattern, or a list of these;
        None for all trainable variables.
      training: what `training` the model is called with; False by default, for a loss without
        dropout and batch statistics.
      seed: integer seed of dropout and other random layers.
      num_batches: use only the first so many batches of the data set; None for all.
      mode: "forward_over_backward" or "backward_over_backward"; by default the first, unless the
        model has operations that only the second can pass, such as the loops of recurrent layers.
      deterministic: make products with the same vector bitwise equal; True by default, so that
        runs can be repeated.
      cache_bytes: size in bytes up to which data sets are kept in memory, by default 1 GiB.
      strategy: a `tf.distribute.Strategy` whose replicas or workers share the batches, or a
        `Sharing`, which also says how (docs/cluster.md); None for one device.
      jit_compile: compile the function of a batch by XLA; not by default, since XLA draws other
        random numbers.
      recompute_blocks: number of blocks to cut the model into, whose activations are computed again
        in the backward pass, for models that don't fit into memory (docs/cluster.md); None for
        none.

    Raises:
      TypeError, ValueError: for what can't be measured, saying what was expected.
    """
    processes.check_process()
    begin = time.monotonic()
    if mode is not None:
      checks.check_choice("mode", mode, products.MODES)
    of_loss = {"loss_weights": loss_weights, "variables": variables, "training": training}
    of_passes = {"deterministic": deterministic, "jit_compile": jit_compile}
    self._options = {
      "loss": loss,
      **of_loss,
      "seed": seed,
      "mode": mode,
      "cache_bytes": cache_bytes,
      "strategy": strategy,
      **of_passes,
      "recompute_blocks": recompute_blocks,
    }
    self.model = model
    self.sharing = Sharing.of(strategy)
    self.engine = engines.make_engine(self.sharing, deterministic=deterministic)
    self.objective = objective_lib.build_objective(model, loss, **of_loss)
    self._check_objective(recompute_blocks)
    self.batches = loading.load_batches(dataset, num_batches=num_batches, cache_bytes=cache_bytes)
    self.seed, self.deterministic = checks.check_seed(seed), deterministic
    self.program = Program(
      self.objective,
      self.batches,
      self.engine,
      self.batch_product,
      seed=self.seed,
      blocks=recompute_blocks,
      **of_passes,
    )
    super().__init__(np.dtype(np.float64), (self.program.n, self.program.n))
    self.runner = Runner(model, self.program, mode=mode)
    self._group = group.ProcessGroup(self.runner, self.description)
    self.mode = self.program.mode
    self.parameter_names, self.parameter_shapes = self.objective.names, self.objective.shapes
    self._note_precision()
    self._look_at_outputs()
    self.startup_seconds = time.monotonic() - begin

  def _look_at_outputs(self):
    """Looks at the loss as a function of the outputs."""

  def _note_precision(self):
    found = self.runner.precision
    self.precision, self.precision_dtype = found.eps, found.dtype.name
    self.precision_place, self.precision_note = found.where, self.runner.precision_note

  def _check_objective(self, blocks):
    """Refuses a loss that the matrix can't be made of."""

  @abc.abstractmethod
  def batch_product(
    self,
    objective: Objective,
    mode: str,
    *,
    blocks: int | None,
    connected: Callable[[list[bool]], None],
  ) -> Callable:
    """Returns the pure function that makes products with a batch's matrix.

    Args:
      objective: the `Objective`.
      mode: how to differentiate, one of `products.MODES`.
      blocks: recompute the activations of so many blocks; None for none.
      connected: to be told, when the function is traced, on which parameters the loss depends.

    Returns:
      (parameters, context, batch, seed, ratios) -> v -> w_b C_b v, where v and the product are
      lists of tensors like the parameters, and ratios the factors of the loss's terms (`products`).
      Values that don't depend on v belong outside of the inner function.
    """

  # Loss, gradient, and the point ----------------------------------------------------------------

  @processes.one_at_a_time
  def loss(self) -> float:
    """Returns the mean loss over the data set, with `model.losses`."""
    self.agree()
    return self.runner.loss()

  @processes.one_at_a_time
  def gradient(self) -> np.ndarray:
    """Returns the gradient of `loss()`, (n,) float64."""
    self.agree()
    return self.runner.gradient()

  def batch_gradients(self) -> Iterator[np.ndarray]:
    """Yields the gradient of each batch's own mean loss.

    Each is (n,) float64; they come in the order of the batches. Computed by this process alone.
    """
    return (batch.gradient() for batch in self.runner.single_batches())

  @processes.one_at_a_time
  def field(self, point: np.ndarray, /) -> np.ndarray:
    """Returns the vector field whose derivative at a point is the matrix.

    That is the gradient for the Hessian.

    Args:
      point: (n,); the parameters may be at another one.

    Returns:
      (n,) float64: the field where the parameters are.
    """
    del point
    return self.runner.gradient()

  def check_point(self) -> None:
    """Checks that variables and moving statistics are finite numbers.

    Raises:
      NonFiniteError: names the first that is not.
    """
    self.runner.check_point()

  # Products -------------------------------------------------------------------------------------

  @processes.one_at_a_time
  def products(self, vectors: np.ndarray, *, vectors_per_pass: int | None = None) -> np.ndarray:
    """Returns the products with several vectors, which share passes.

    Args:
      vectors: (k, n).
      vectors_per_pass: how many share a pass; by default the operator's own number. Where
        `vectorized`, rounding depends on it and on nothing else; otherwise products are bitwise
        those of single vectors.

    Returns:
      (k, n) float64.

    Raises:
      TypeError, ValueError: for bad vectors, or products that are not finite.
    """
    self.agree()
    return self.runner.products(vectors, vectors_per_pass)

  @processes.one_at_a_time
  def _matvec(self, x):
    self.agree()
    return self.runner.product(x)

  def _matmat(self, x):
    # A few columns cost less one by one than filled up.
    if self.vectorized and 2 * x.shape[1] <= self.vectors_per_pass or self.vectors_per_pass == 1:
      return np.reshape([self._matvec(column) for column in x.T], x.T.shape).T
    return self.products(x.T).T

  def _adjoint(self):
    return self

  _transpose = _adjoint

  @property
  def vectors_per_pass(self) -> int:
    """Number of columns that `matmat` takes through the data at once.

    It may be set to another number. More cost less a column, and memory for so many vectors: 36
    bytes a parameter each. At first it is at most 32, and less for large models.
    """
    return self.runner.vectors_per_pass

  @vectors_per_pass.setter
  def vectors_per_pass(self, count: int) -> None:
    self.runner.vectors_per_pass = count

  @property
  def vectorized(self) -> bool:
    """Whether several columns are computed by the same, vectorized operations.

    It may be set to another value; ValueError where an operation stands in the way. At first it is
    True where that is faster, which is with small tensors (`choices.can_be_vectorized`).
    """
    return self.program.vectorized

  @vectorized.setter
  def vectorized(self, value: bool) -> None:
    self.program.vectorized = value

  # Several processes ----------------------------------------------------------------------------

  def agree(self, **about: Any) -> None:
    """Makes sure that all processes measure the same matrix.

    It is called before the first pass.

    Args:
      **about: plain values that must agree besides what defines the matrix.

    Raises:
      DisagreementError: if a worker measures another; says the difference.
    """
    self._group.agree(about)

  def follow(self) -> bytes:
    """Takes part in the chief's passes until it calls `finish`.

    It is for workers other than the chief. With a `MultiWorkerMirroredStrategy`, each worker either
    makes the same calls as the chief, or this one.

    Returns:
      The bytes that the chief has given to `finish`.

    Raises:
      ClusterError: if the chief has ended with an error, or a worker is gone.
    """
    return self._group.follow()

  def distributed_basis(
    self, steps: int, path: str | os.PathLike | None = None, /
  ) -> DistributedBasis:
    """Returns a Lanczos basis that is distributed over the workers.

    It is for the chief; the other workers `follow`.

    Args:
      steps: number of rows.
      path: file of each worker's part, to which its place among the workers is added; None for
        memory.

    Returns:
      A `DistributedBasis` of rows (n,).

    Raises:
      ValueError: if no workers follow, or there are more of them than parameters.
      ClusterError: if a worker has no room for its part, or is gone.
    """
    return self._group.basis(steps, path)

  @processes.one_at_a_time
  def distributed_products(
    self, rows: Sequence, /, *, places: Sequence[int] = (0,), vectors_per_pass: int = 1
  ) -> list[np.ndarray]:
    """Returns the products with rows of distributed bases, by one pass.

    Each worker makes its part of the vectors from its part of the bases, and keeps its part of the
    products for the next `orthogonalize` of each basis. So vectors move as in any pass, and no
    more.

    Args:
      rows: list of (basis, number of a row), of different bases by `distributed_basis`.
      places: for each, its place in the pass.
      vectors_per_pass: how many places there are; rounding depends on them as in `products`.

    Returns:
      list of the products, (n,) float64 each.

    Raises:
      ValueError: if one is not finite.
    """
    return self._group.products(rows, places, vectors_per_pass)

  # Other operators ------------------------------------------------------------------------------

  def like(
    self, *, dataset: Any, model: Any = None, variables: Any = None, **changes: Any
  ) -> CurvatureOperator:
    """Returns an operator like this one, of another data set.

    The model, the block and further arguments may differ too.

    Args:
      dataset: a `tf.data.Dataset` of batches, or a list of them.
      model: the other model; None for this one's.
      variables: the other block; None for this one's.
      **changes: further arguments that differ, such as strategy=None for this process alone.
    """
    same = model is None and "loss" not in changes
    changes |= {} if variables is None else {"variables": variables}
    options = self._options | self.matrix_options | changes
    with output_checks.looked_at("loss") if same else contextlib.nullcontext():
      model = self.model if model is None else model
      return type(self)(model, options.pop("loss"), dataset, **options)

  def sample(self, count: int) -> CurvatureOperator:
    """Returns an operator like this one on `count` of its batches.

    It runs on the same devices. The batches are kept in memory: those in a row with the most data.
    Its `vectorized`, `mode` and `vectors_per_pass` are this one's.
    """
    with output_checks.looked_at("data"):
      result = self.like(dataset=self.batches.largest(count), mode=self.mode)
    result.vectors_per_pass = self.vectors_per_pass
    result.vectorized = self.vectorized
    return result

  def description(self) -> dict:
    """Returns what defines the matrix, for records: a dict of plain values."""
    return {
      **self.objective.description,
      "precision": self.precision,
      **self.engine.description,
      "mode": self.mode,
      "operator_seed": self.seed,
      "deterministic": self.deterministic,
      "jit_compile": self._options["jit_compile"],
      "recompute_blocks": self._options["recompute_blocks"],
      "num_batches": self.batches.num_batches,
      "num_examples": self.batches.num_examples,
      "data_fingerprint": self.batches.fingerprint,
      "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
      **({} if self.matrix == "hessian" else {"matrix": self.matrix, **self.matrix_options}),
    }


class HessianOperator(CurvatureOperator):
  """The Hessian of the mean loss over a whole data set.

  H = sum_b w_b H_b / sum_b w_b. Arguments, attributes and methods are a `CurvatureOperator`'s.

  >>> import numpy as np, tensorflow as tf, tf_hessian
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, lambda p, b: b * tf.reduce_sum(p[0] ** 4), data)
  >>> hessian @ np.array([1.0, 0.0])
  array([108.,   0.])
  """

  batch_product = staticmethod(products.hessian_product)
