"""The Hessian of the mean loss over a data set, as a SciPy linear operator."""

import functools
import os

from absl import logging
import keras
import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from tf_hessian.curvature import (
  arithmetic,
  blocks,
  failures,
  loading,
  processes,
  products,
  second_order,
  soundness,
  stopped,
)
from tf_hessian.curvature import batches as batches_lib
from tf_hessian.curvature import objective as objective_lib
from tf_hessian.curvature.passes import DataPass
from tf_hessian.distribute import copies, engines
from tf_hessian.numerics import checks
from tf_hessian.numerics import distributed_basis as distributed

# What TensorFlow raises while it differentiates what it can't.
_UNSUPPORTED = (LookupError, NotImplementedError, TypeError, ValueError)


def _check_operand(x):
  if np.iscomplexobj(x):
    raise TypeError("vector: expected real numbers, got complex ones")
  if not np.isfinite(np.sum(x)) and not np.isfinite(x).all():
    raise ValueError("vector: expected finite numbers, got NaN or infinity")


class HessianOperator(scipy.sparse.linalg.LinearOperator):
  """H = sum_b w_b H_b / sum_b w_b, the Hessian of the mean loss over a whole data set.

  A `scipy.sparse.linalg.LinearOperator`, float64, of shape (n, n): pass it to `eigsh`, `cg` and so
  on. The vector is the chosen variables, each flattened in C order, one after the other. Vectors
  are cast to the variables' dtypes for the product; each batch's product is summed in float64.

  Threads may share an operator; they take turns.

  Batch b has fixed examples and, where the model draws random numbers, a seed made from (seed, b).
  The model is never changed: moving statistics and seed generators stay as they are. Its variables
  are read anew in every pass, so the operator follows a model that is trained on.

  Attributes:
    parameter_names: tuple of names, in the order of the vector.
    parameter_shapes: tuple of shapes.
    batches: the `Batches` it runs on.
    model: what it was made from.
    objective: the `Objective` it differentiates.
    deterministic: whether products with the same vector are made bitwise equal.
    precision: relative rounding error of the products' arithmetic, such as 1.2e-7 for float32.
    mode: how the product is differentiated.
    vectors_per_pass: how many columns `matmat` takes through the data at once.
    vectorized: whether it computes them by the same operations, on stacked tensors.
    engine: what runs its passes; see distribute.engines.
  """

  def __init__(
    self,
    model,
    loss=None,
    dataset=None,
    *,
    loss_weights=None,
    variables=None,
    training=False,
    seed=0,
    num_batches=None,
    mode=None,
    deterministic=True,
    vectors_per_pass=None,
    cache_bytes=2**30,
    strategy=None,
    num_shards=16,
    patience=600.0,
    jit_compile=False,
    recompute_blocks=None,
  ):
    """Reads the data set once, and prepares the functions without running them.

    Args:
      model: a built `keras.Model`, or a list of tensors or variables.
      loss: see `objective.build_objective`; left out, that which `fit` minimises.
      dataset: `tf.data.Dataset` of batches (inputs, targets[, sample_weight]), or a list of them.
      loss_weights: coefficients of several outputs' losses.
      variables: the block of the Hessian; see `objective.build_objective`.
      training: what `training` the model is called with.
      seed: seed of dropout and other random layers.
      num_batches: use only the first so many batches of the data set.
      mode: "forward_over_backward" or "backward_over_backward"; by default the first, unless the
        model has operations that only the second can pass, such as the loops of recurrent layers.
      deterministic: make products with the same vector bitwise equal.
      vectors_per_pass: how many columns `matmat` takes through the data at once, which costs less a
        column, and memory for so many vectors (36 bytes a parameter); by default at most 32, fewer
        for large models.
      cache_bytes: keep data sets up to this size in memory.
      strategy: a `tf.distribute.Strategy` whose replicas or workers share the batches; None for one
        device. See docs/cluster.md.
      num_shards: number of parts that a `ParameterServerStrategy` hands out; of the same number the
        sums are bitwise the same, for any number of workers.
      patience: seconds that a `ParameterServerStrategy` waits while all workers are gone.
      jit_compile: compile the function of a batch by XLA.
      recompute_blocks: cut the model into so many blocks, whose activations are computed again in
        the backward pass, for models that don't fit into memory; see docs/cluster.md.

    Raises:
      TypeError, ValueError: for what can't be measured, saying what was expected.
    """
    processes.check_process()
    checks.check_count("num_shards", num_shards)
    checks.check_positive("patience", patience)
    if mode is not None:
      checks.check_choice("mode", mode, products.MODES)
    self.model = model
    self._options = {
      "loss": loss,
      "loss_weights": loss_weights,
      "variables": variables,
      "training": training,
      "seed": seed,
      "mode": mode,
      "deterministic": deterministic,
      "cache_bytes": cache_bytes,
      "jit_compile": jit_compile,
      "recompute_blocks": recompute_blocks,
      "strategy": strategy,
      "num_shards": num_shards,
      "patience": patience,
    }
    self.engine = engines.make_engine(
      strategy, num_shards=num_shards, patience=patience, deterministic=deterministic
    )
    self.objective = objective_lib.build_objective(
      model, loss, loss_weights=loss_weights, variables=variables, training=training
    )
    self.batches = loading.load_batches(dataset, num_batches=num_batches, cache_bytes=cache_bytes)
    self.seed = checks.check_seed(seed)
    self.deterministic = deterministic
    self._jit_compile = jit_compile
    self._blocks = self._check_blocks(recompute_blocks)
    self._agreed = False
    self._columns_passes = {}
    self._sizes = [int(np.prod(s)) for s in self.parameter_shapes]
    n = sum(self._sizes)
    super().__init__(np.dtype(np.float64), (n, n))
    self._connected = [False] * len(self.parameter_names)
    self._looked_at_point = self._looked_at_influence = False
    # The loss is traced here, so that what doesn't fit together is said now.
    self._check_rows()
    self._precision = self._find_precision()
    if self.precision_note:
      logging.warning("products are right to about %.1g: %s", self.precision, self.precision_note)
    self._tell_stops()
    self.mode = self._choose_mode(mode)
    self.vectors_per_pass = self._choose_columns(vectors_per_pass)

  @property
  def parameter_names(self):
    return self.objective.names

  @property
  def parameter_shapes(self):
    return self.objective.shapes

  @property
  def precision(self):
    return self._precision.eps

  @property
  def precision_dtype(self):
    """Name of the least precise type that the loss is computed in."""
    return self._precision.dtype.name

  @property
  def precision_place(self):
    """A phrase that says where that type comes in, empty if the variables have it themselves."""
    return self._precision.where

  @property
  def precision_note(self):
    """The same, but empty if the layers declare that they compute in that type."""
    return "" if self.precision_dtype in self.objective.compute_dtypes else self.precision_place

  @property
  def tracing_count(self):
    """How often the product of one vector was traced: once for each shape of batch."""
    return self._product_pass.tracing_count

  @processes.one_at_a_time
  def loss(self):
    """Returns the mean loss over the data set, with `model.losses`: a float."""
    sums, weights = self._term_sums()
    return float(np.dot(self.objective.coefficients, sums / weights))

  @processes.one_at_a_time
  def gradient(self):
    """Returns the gradient of `loss()`, (n,) float64."""
    result = self._run("gradient", self._gradient_pass, self._ratios)
    return self._checked(result, "gradient", self._gradient_pass, self._ratios)

  def batch_gradients(self):
    """Yields the gradient of each batch's own mean loss, (n,) float64, in the order of the batches.

    Computed by this process alone, one batch at a time.
    """
    for b, batch in enumerate(self.batches):
      sums = np.array([float(x) for x in self._loss_pass.single(b, batch)])
      weights = sums[sums.size // 2 :]
      if not np.all(weights > 0):
        raise ValueError(f"batch {b}: expected a positive sum of the examples' weights")
      ratios = tf.constant(np.array(self.objective.coefficients) * weights[0] / weights)
      parts = self._gradient_pass.single(b, batch, ratios)
      flat = np.concatenate([np.ravel(g.numpy()).astype(np.float64) for g in parts])
      if not np.isfinite(flat).all():
        raise failures.NonFiniteError(f"gradient: NaN or infinity in batch {b} of the data set")
      yield flat / weights[0]

  def parameters(self):
    """Returns the current point, (n,) float64."""
    return np.concatenate(
      [np.ravel(p.numpy()).astype(np.float64) for p in self.objective.parameters]
    )

  def follow(self):
    """On workers other than the chief: takes part in its passes until it calls `finish`.

    With a `MultiWorkerMirroredStrategy`, each worker either makes the same calls as the chief, or
    this one.

    Returns:
      The bytes that the chief has given to `finish`.

    Raises:
      ClusterError: if the chief has ended with an error, or a worker is gone.
    """
    self.agree()
    self._look_at_point()
    passes = {
      "loss": lambda: self._loss_pass.join(),
      "gradient": lambda: self._gradient_pass.join(),
      "product": lambda: self._product_pass.join(),
      "columns": lambda count: self._columns_pass(count).join(),
      "basis": self._shards.join,
      "distributed": self._join_distributed,
    }
    try:
      return self.engine.follow(passes)
    finally:
      self._shards.clear()

  def distributed_basis(self, steps, path=None, /):
    """On the chief: returns a Lanczos basis that is spread over the workers, which `follow`.

    Args:
      steps: number of rows.
      path: file of each worker's part, to which its place among the workers is added; None for
        memory.

    Returns:
      A `distributed.DistributedBasis` of rows (n,).

    Raises:
      ValueError: if no workers follow, or there are more of them than parameters.
      ClusterError: if a worker has no room for its part, or is gone.
    """
    if not self.engine.followers:
      raise ValueError(
        "distributed_basis: expected a MultiWorkerMirroredStrategy of several workers"
      )
    return distributed.DistributedBasis(self._shards, steps, self.shape[0], path)

  @processes.one_at_a_time
  def distributed_products(self, rows, /, *, places=(0,), vectors_per_pass=1):
    """Returns the products with rows of bases that are spread over the workers, by one pass.

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
    self.agree()
    rows = [(basis.number, j, place) for (basis, j), place in zip(rows, places, strict=True)]
    used = vectors_per_pass if self.vectorized else len(rows)
    weight, ratios = self._weights[0], self._ratios  # which may take a pass of their own
    self.engine.announce(
      f"distributed {vectors_per_pass} {len(rows)} {used} {distributed.to_bits(weight)}"
    )
    with self.engine.committed():
      self.engine.broadcast(tf.constant(rows, tf.int64))
      products = self._distributed_products(rows, vectors_per_pass, used, weight, ratios)
    if not np.isfinite(products.sum()):
      for number, j, _ in rows:
        self._matvec(self._shards.lead("row", number, j))  # names the batch and the variable
    return [products[place] for *_, place in rows]

  def _join_distributed(self, vectors_per_pass, count, used, weight):
    rows = self.engine.broadcast(tf.zeros((count, 3), tf.int64)).numpy().tolist()
    ratios = tf.zeros(self._ratios_spec.shape, tf.float64)  # the chief's are added to these
    self._distributed_products(rows, vectors_per_pass, used, distributed.from_bits(weight), ratios)

  def _distributed_products(self, rows, vectors_per_pass, used, weight, ratios):
    """Returns (vectors_per_pass, n), where each worker has its parts of the vectors."""
    v = np.zeros((vectors_per_pass, self.shape[0]))
    for number, j, place in rows:
      self._shards.place(number, j, v[place])
    if vectors_per_pass == 1:
      arguments = self._product_pass, ratios, tf.convert_to_tensor(v[0])
    else:
      used = tf.constant(used if self.engine.leads else 0)  # the chief's is added to zeros
      arguments = self._columns_pass(vectors_per_pass), ratios, tf.convert_to_tensor(v), used
    flat = self._run("product", *arguments, together=True)
    products = self._unpacked(flat, vectors_per_pass, weight, v)
    for number, _, place in rows:
      self._shards.keep(number, products[place])
    return products

  @functools.cached_property
  def _shards(self):
    """What this worker has of spread bases."""
    return distributed.Shards(self.engine)

  def agree(self, **about):
    """Makes sure that all processes measure the same matrix; called before the first pass.

    Args:
      **about: plain values that must agree besides what defines the matrix.

    Raises:
      DisagreementError: if a worker measures another; says the difference.
    """
    if about or not self._agreed:
      self.engine.agree(self.description() | {"names": list(self.parameter_names)} | about)
      self._agreed = True

  def like(self, *, dataset, model=None, variables=None, **changes):
    """Returns an operator that is like this one but for the data set, the model or the block.

    Args:
      dataset: see `HessianOperator`, also for the others.
      model: None for this one's.
      variables: None for this one's.
      **changes: further arguments that differ, such as strategy=None for this process alone.
    """
    options = self._options | ({} if variables is None else {"variables": variables}) | changes
    return HessianOperator(
      self.model if model is None else model, options.pop("loss"), dataset, **options
    )

  def sample(self, count):
    """Returns an operator like this one, on the same devices, on `count` of its batches.

    They are kept in memory: those in a row with the most data. Its `vectorized`, `mode` and
    `vectors_per_pass` are this one's.
    """
    options = self._options | {"mode": self.mode, "vectors_per_pass": self.vectors_per_pass}
    result = HessianOperator(
      self.model,
      options.pop("loss"),
      self.batches.largest(count),
      **options,
    )
    result.vectorized = self.vectorized
    return result

  def graphs(self):
    """Returns the `GraphDef`s of the product of one batch, one for each shape of batch."""
    return self._product_pass.graphs

  @processes.one_at_a_time
  def _matvec(self, x):
    _check_operand(x)
    v = tf.convert_to_tensor(np.ascontiguousarray(x, dtype=np.float64).reshape(-1))
    arguments = self._product_pass, self._ratios, v
    return self._checked(self._run("product", *arguments), "product", *arguments)

  @processes.one_at_a_time
  def products(self, vectors, *, vectors_per_pass=None):
    """Returns the products with several vectors, in passes over the data that they share.

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
    vectors_per_pass = self.vectors_per_pass if vectors_per_pass is None else vectors_per_pass
    checks.check_count("vectors_per_pass", vectors_per_pass)
    vectors = np.asarray(vectors)
    _check_operand(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != self.shape[0]:
      raise ValueError(f"vectors: expected shape (k, {self.shape[0]}), got {vectors.shape}")
    result = np.empty(vectors.shape)
    for start in range(0, len(vectors), vectors_per_pass):
      self._products(
        vectors[start : start + vectors_per_pass],
        vectors_per_pass,
        result[start : start + vectors_per_pass],
      )
    return result

  def _matmat(self, x):
    # A few columns cost less one by one than filled up.
    if self.vectorized and 2 * x.shape[1] <= self.vectors_per_pass or self.vectors_per_pass == 1:
      return np.stack([self._matvec(column) for column in x.T], axis=1)
    return self.products(x.T).T

  def _products(self, vectors, count, out):
    """Writes H v of at most `count` vectors, by one pass over the data."""
    k = len(vectors)
    v = np.ascontiguousarray(vectors, np.float64)
    if k < count:  # fewer than usual are filled up with zeros, so that nothing is traced again
      v = np.zeros((count, self.shape[0]))
      v[:k] = vectors
    data_pass = self._columns_pass(count)
    flat = self._run("product", data_pass, self._ratios, tf.convert_to_tensor(v), tf.constant(k))
    self._unpacked(flat, count, self._weights[0], out)
    if not np.isfinite(out.sum()):
      for vector in vectors:
        self._matvec(vector)  # names the batch and the variable

  def _unpacked(self, flat, count, weight, out):
    """Writes the first (k, n) of `count` vectors' sums, divided by a weight, and returns them."""
    start = 0
    for size in self._sizes:
      block = flat[start * count : (start + size) * count].reshape(count, size)
      np.divide(block[: len(out)], weight, out=out[:, start : start + size])
      start += size
    return out

  def _adjoint(self):
    return self

  def _transpose(self):
    return self

  def _check_rows(self):
    """Traces the loss; refuses batches whose rows are not examples, unless the loss weighs them."""
    uneven = None
    if isinstance(self.model, keras.Model):
      try:
        batches_lib.check_examples(self.batches)
      except ValueError as e:
        uneven = e
    try:
      self._loss_pass  # noqa: B018
    except (TypeError, ValueError) as e:
      raise uneven or e from e
    if uneven is not None and not self.objective.weighs_batches():
      raise ValueError(
        f"{uneven}; where rows are not examples, a loss that returns a pair (sum, weight) says "
        "what a batch weighs"
      )

  def _find_precision(self):
    count = len(self.objective.parameters)
    state = count + len(self.objective.context)
    return arithmetic.of_loss(self._loss_pass.concretes, count, state, self.objective.layers)

  def _tell_stops(self):
    count = len(self.objective.parameters)
    places = stopped.stopping_places(self._loss_pass.concretes, count, self.objective.layers)
    if places:
      logging.warning(
        "%s: tf.stop_gradient holds values fixed that depend on the variables. Products are those "
        "of the loss with these values frozen, which may not be the derivative of the gradient: "
        "check_operator() tells",
        ", ".join(places),
      )

  def check_point(self):
    """Checks that variables and moving statistics are finite numbers.

    Raises:
      NonFiniteError: names the first that is not.
    """
    objective = self.objective
    for name, value in zip(
      (*objective.names, *objective.context_names),
      (*objective.parameters, *objective.context),
      strict=True,
    ):
      failures.check_variable(name, value)
    self._looked_at_point = True
    differing = [
      n for n, c in zip(objective.context_names, objective.context, strict=True) if copies.differ(c)
    ]
    if differing:
      logging.warning(
        "variables whose copies on the replicas differ: %s. Those of the first replica are used "
        "everywhere, as Keras reads and saves them",
        ", ".join(differing),
      )

  def _look_at_point(self):
    """Looks at the variables before the first pass: fused kernels may clip NaN to numbers."""
    if not self._looked_at_point:
      self.check_point()

  def _note_connected(self, connected):
    self._connected = [a or b for a, b in zip(self._connected, connected, strict=True)]

  def _look_at_influence(self):
    """Refuses a loss that no variable has influence on, once it has been traced."""
    if self._looked_at_influence:
      return
    self._looked_at_influence = True
    without = [n for n, c in zip(self.parameter_names, self._connected, strict=True) if not c]
    if len(without) == len(self.parameter_names):
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

  def _check_blocks(self, count):
    if count is None:
      return None
    checks.check_count("recompute_blocks", count)
    if self.objective.pieces is None:
      raise ValueError(
        "recompute_blocks: is for Keras models with losses of their outputs; a function can "
        "recompute by itself"
      )
    blocks.check_count(self.model, count)
    return count

  def _choose_mode(self, mode):
    for way in self._loss_pass.ways():
      problem = soundness.loss_problem(*way)
      if problem:
        raise second_order.explain(problem, (), self.objective.layers)
    found = (
      second_order.backward_only_op(g, self.objective.layers) for g in self._loss_pass.graphs
    )
    op = next((f for f in found if f), None)
    if self._blocks and (op or mode == "backward_over_backward"):
      raise ValueError(
        "recompute_blocks: works forward over backward only"
        + (f", and the model has {op}, which that can't pass" if op else "")
      )
    if mode is None and op:
      logging.info("mode backward_over_backward, which alone can pass %s", op)
      return "backward_over_backward"
    if mode is None:
      return self._mode_that_passes()
    if mode == "forward_over_backward" and op:
      raise second_order.DifferentiationError(
        f"mode {mode!r} can't pass {op}; use mode='backward_over_backward'"
      )
    return mode

  def _mode_that_passes(self):
    """Returns forward over backward, or where that product can't be built and the other can, that.

    Built here only if operations are between parameters and loss that no test has proved.
    """
    self.mode = "forward_over_backward"
    if self._blocks or all(soundness.is_proved(*way) for way in self._loss_pass.ways()):
      return self.mode
    try:
      self._product_pass  # noqa: B018
    except second_order.DifferentiationError as e:
      self.mode = "backward_over_backward"
      try:
        self._product_pass  # noqa: B018
      except second_order.DifferentiationError:
        raise e from None
      logging.info("mode backward_over_backward, since forward over backward fails: %s", e)
    return self.mode

  def _choose_columns(self, count):
    if count is None:
      # Of several vectors there are: themselves and the products in float64, three times each on
      # the way, and both in the model's type.
      size = 36 * self.shape[0] + (self.vectorized and self._activation_bytes)
      count = max(1, min(32, 2**30 // size))
    checks.check_count("vectors_per_pass", count)
    return count

  @property
  def _activation_bytes(self):
    # A rough bound, not measured: four tensors of a product for each that the loss has.
    return 4 * max(self._loss_pass.bytes)

  @functools.cached_property
  def vectorized(self):
    # Where tensors are larger than caches, operations on stacked ones are slower: 1.5 times for a
    # small residual network, while they are 1.5 times faster for a small dense one. The rule is
    # fixed, not timed, since rounding depends on it.
    fit = all(second_order.can_be_vectorized(g) for g in self._loss_pass.graphs)
    return not self._blocks and fit and self._activation_bytes <= 2**26

  # Passes -----------------------------------------------------------------------------------

  def _pass(self, name, function, prepare, *specs):
    return DataPass(
      name,
      function,
      self.objective,
      self.batches,
      self.engine,
      seed=self.seed,
      prepare=prepare,
      signature=specs,
      deterministic=self.deterministic,
      jit_compile=self._jit_compile,
    )

  @functools.cached_property
  def _loss_pass(self):
    return self._pass("loss", products.loss_sums(self.objective), list)

  @functools.cached_property
  def _gradient_pass(self):
    if self._blocks:
      function = products.batch_gradient_by_blocks(
        self.objective, self._blocks, self._note_connected
      )
    else:
      function = products.batch_gradient(self.objective, self._note_connected)
    try:
      result = self._pass("gradient", function, lambda ratios: [ratios], self._ratios_spec)
    except _UNSUPPORTED as e:
      raise second_order.explain(e, self._loss_pass.graphs, self.objective.layers) from e
    self._look_at_influence()
    return result

  @functools.cached_property
  def _product_pass(self):
    function = products.batch_product(
      self.objective, self.mode, blocks=self._blocks, connected=self._note_connected
    )
    spec = tf.TensorSpec(self.shape[:1], tf.float64)
    return self._second_order_pass("product", function, lambda r, v: [r, self._split(v)], spec)

  def _columns_pass(self, count):
    """Returns the pass that makes products of `count` vectors (count, n)."""
    if count not in self._columns_passes:
      function = products.batch_products(
        self.objective,
        self.mode,
        blocks=self._blocks,
        vectorized=self.vectorized,
        connected=self._note_connected,
      )
      self._columns_passes[count] = self._second_order_pass(
        f"columns {count}",
        function,
        lambda r, v, used: [r, self._split(v), used],
        tf.TensorSpec((count, self.shape[0]), tf.float64),
        tf.TensorSpec((), tf.int32),
      )
    return self._columns_passes[count]

  def _second_order_pass(self, name, function, prepare, *specs):
    layers = self.objective.layers
    problems = [soundness.transform_problem(*way) for way in self._loss_pass.ways()]
    if self._blocks or self.mode == "backward_over_backward":  # or it is seen when it is linearized
      problems += [soundness.gradient_problem(*way) for way in self._gradient_pass.ways()]
    for problem in filter(None, problems):
      raise second_order.explain(problem, (), layers)
    try:
      result = self._pass(name, function, prepare, self._ratios_spec, *specs)
    except _UNSUPPORTED as e:
      raise second_order.explain(e, self._gradient_pass.graphs, layers) from e
    self._look_at_influence()
    return result

  @property
  def _ratios_spec(self):
    return tf.TensorSpec((len(self.objective.coefficients),), tf.float64)

  def _split(self, v):
    """Splits vectors (..., n) into tensors like the parameters, in their dtypes."""
    parts = tf.split(v, self._sizes, axis=-1)
    return [
      tf.reshape(tf.cast(part, p.dtype), [*v.shape[:-1], *p.shape])
      for part, p in zip(parts, self.objective.parameters, strict=True)
    ]

  def _term_sums(self):
    """Returns (S_t, W_t), each (terms,) float64, of the whole data set."""
    sums = self._run("loss", self._loss_pass)
    if not np.isfinite(sums).all():
      failures.raise_not_finite("loss", self._loss_pass, (), self.batches, self.objective)
    totals, weights = np.split(sums, 2)
    for name, weight in zip(self.objective.term_names, weights, strict=True):
      if not weight > 0:
        raise ValueError(f"{name}: expected a positive sum of the examples' weights, got {weight}")
    return totals, weights

  @functools.cached_property
  def _weights(self):
    """(terms,) float64: W_t, which depends on the data only."""
    return self._term_sums()[1]

  @functools.cached_property
  def _ratios(self):
    return tf.constant(np.array(self.objective.coefficients) * self._weights[0] / self._weights)

  def _run(self, what, data_pass, *arguments, together=False):
    """Returns a pass's sums as a NumPy array; explains what stops it."""
    self.agree()
    self._look_at_point()
    with failures.explained(what, data_pass, arguments, self.batches):
      return (data_pass.together if together else data_pass)(*arguments).numpy()

  def _checked(self, result, what, data_pass, *arguments):
    """Divides a pass's sums by the weight; explains them if they are not finite."""
    if not np.isfinite(np.sum(result)) and not np.isfinite(result).all():
      failures.raise_not_finite(what, data_pass, arguments, self.batches, self.objective)
    result /= self._weights[0]
    return result

  def description(self):
    """Returns what defines the matrix, for records: a dict of plain values."""
    return {
      **self.objective.description,
      "precision": self.precision,
      **self.engine.description,
      "mode": self.mode,
      "operator_seed": self.seed,
      "deterministic": self.deterministic,
      "jit_compile": self._jit_compile,
      "recompute_blocks": self._blocks,
      "num_batches": self.batches.num_batches,
      "num_examples": self.batches.num_examples,
      "data_fingerprint": self.batches.fingerprint,
      "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }
