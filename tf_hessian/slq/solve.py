"""Linear systems with a damped matrix, by its products."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, NamedTuple

from absl import logging
import numpy as np
import scipy.sparse.linalg

from tf_hessian.numerics import checks
from tf_hessian.numerics.results import Eigenpairs
from tf_hessian.numerics.scaling import scales_of
from tf_hessian.slq import digests, provenance
from tf_hessian.slq.matrix import as_matrix
from tf_hessian.slq.progress import Progress

METHODS = ("minres", "cg")
_FIRST_LOOK = 5  # iteration at which the residual is first computed
_EPS = float(np.finfo(np.float64).eps)


class Solution(NamedTuple):
  """The solution of a linear system.

  >>> import numpy as np
  >>> import tf_hessian
  >>> solution = tf_hessian.solve(np.diag([1.0, 3.0]), np.ones(2), damping=1.0, progress=False)
  >>> solution.x.round(6).tolist(), solution.converged
  ([0.5, 0.25], True)

  Attributes:
    x: (n,) float64.
    residual: |(A + damping I) x - b| / |b|, by a product of its own.
    iterations: number of iterations.
    converged: whether the residual is within the tolerance.
  """

  x: np.ndarray
  residual: float
  iterations: int
  converged: bool


def solve(
  operator: Any,
  b: np.ndarray,
  /,
  *,
  damping: float,
  method: str = "minres",
  tolerance: float = 1e-6,
  max_iterations: int = 1000,
  eigenpairs: Eigenpairs | None = None,
  progress: bool = True,
) -> Solution:
  """Returns x with (A + damping I) x = b.

  By SciPy's Krylov iterations. Each takes one product, and memory for a few vectors (n,). Whenever
  there are a fifth more of them, one more product gives the residual. With a Gauss-Newton or Fisher
  matrix and the gradient for b, x is a natural-gradient step.

  >>> import numpy as np
  >>> import tf_hessian
  >>> solution = tf_hessian.solve(np.diag([1.0, 3.0]), np.ones(2), damping=1.0, progress=False)
  >>> solution.x.round(9), solution.iterations, solution.converged
  (array([0.5 , 0.25]), 2, True)

  Args:
    operator: A: a matrix of a model, or a symmetric `LinearOperator` or array. Each of several
      workers calls this function and gets the result.
    b: (n,) of finite numbers.
    damping: what is added to each eigenvalue; 0 for none.
    method: "minres", for any symmetric matrix, or "cg", for one that is positive definite with its
      damping.
    tolerance: of the residual relative to b. What rounding of the products allows is the least that
      is of use: about 1e-6 for float32.
    max_iterations: most iterations.
    eigenpairs: known pairs of A, as by `top_eigenpairs`, by which the system is preconditioned: the
      iterations don't see these eigenvalues any more. The damped ones must be positive.
    progress: whether to show a bar, or log lines where there is no terminal.

  Returns:
    `Solution`. One that has not converged is the best there is, with a warning.

  Raises:
    TypeError, ValueError: for bad arguments, or products that are not finite.
    OSError: (ClusterError) if other processes of a cluster are gone.
  """
  matrix = as_matrix(operator)
  matrix.check_array()
  checks.check_choice("method", method, METHODS)
  checks.check_positive("tolerance", tolerance)
  checks.check_count("max_iterations", max_iterations)
  checks.check_number("damping", damping, 0.0, 1e300)
  b = checks.as_vector("b", b, matrix.n)
  preconditioner = None if eigenpairs is None else _deflation(eigenpairs, matrix.n, damping)

  def compute():
    with Progress(max_iterations, enabled=progress) as bar, matrix.passes():
      (scale,) = scales_of(b[None])  # the iterations and norms would over- or underflow
      search = _Search(matrix, b / scale, damping, tolerance, lambda: bar.advance("solve"))
      found = search.run(method, max_iterations, preconditioner)
      return found._replace(x=found.x * scale)

  matrix.agree(
    **provenance.identity(),
    damping=damping,
    method=method,
    tolerance=tolerance,
    b=digests.of_array(b),
  )
  result = matrix.lead(compute, _to_bytes, _from_bytes)
  if not result.converged:
    logging.warning(
      "solve: after %d iterations the residual is %.2g of b; %sdamp more, or give "
      "eigenpairs=top_eigenpairs(operator, ...)",
      result.iterations,
      result.residual,
      "allow more, or " if result.iterations >= max_iterations else "more would not help: ",
    )
  return result


class _Enough(Exception):  # noqa: N818 - it is no error
  """The residual is within the tolerance."""


class _Indefinite(Exception):  # noqa: N818 - what was found is kept
  """A direction without positive curvature, along which CG can't go."""


class _Search:
  """Iterations that end once the residual itself is within the tolerance.

  MINRES measures it by |A| |x|, and preconditioned. So it is computed, at iterations that are ever
  farther apart.
  """

  def __init__(self, matrix, b, damping, tolerance, advance):
    self._matrix, self._b, self._damping = matrix, b, damping
    self._tolerance, self._advance = tolerance, advance
    self._length = np.linalg.norm(b) or 1.0
    self._count, self._next = 0, _FIRST_LOOK
    self._scale = 1.0  # of the matrix, which is divided by it
    self._begin = np.zeros(matrix.n)  # to which iterations find the rest
    self._last = self._begin
    self._best = self._begin, (1.0 if b.any() else 0.0)

  def run(self, method, max_iterations, preconditioner):
    n = self._matrix.n
    options = {"M": preconditioner, "callback": self._called}
    try:
      if method == "cg":
        shifted = scipy.sparse.linalg.LinearOperator((n, n), matvec=self._upward, dtype=np.float64)
        options["maxiter"] = max_iterations
        x, _ = scipy.sparse.linalg.cg(shifted, self._b, rtol=self._tolerance, **options)
        self._look(x)
      else:
        self._by_minres(max_iterations, options)
    except _Enough:
      pass
    except _Indefinite:
      with contextlib.suppress(_Enough):
        self._look(self._last)
      logging.warning(
        "cg: the matrix is not positive definite with this damping, so CG ends here: damp more, or "
        "use method='minres'"
      )
    x, residual = self._best
    return Solution(x, residual, self._count, residual <= self._tolerance)

  def _by_minres(self, max_iterations, options):
    """Runs MINRES, again on what is left, until that gets no smaller.

    It ends by its own estimates, which rounding spoils, and compares the sizes of A and b.
    """
    n, rest = self._matrix.n, self._b
    if not rest.any():
      return
    first = rest * (1.0 / np.sqrt(np.inner(rest, rest)))
    known = [first, self._times(first)]  # as MINRES begins, which so takes no second product
    (self._scale,) = scales_of(known[1][None])

    def times(v):
      v = np.ravel(v)
      result = known[1] if known and np.array_equal(v, known[0]) else self._times(v)
      known.clear()
      if self._scale != 1:
        result /= self._scale
      return result

    scaled = scipy.sparse.linalg.LinearOperator((n, n), matvec=times, dtype=np.float64)
    while self._count < max_iterations:
      before = self._best[1]
      left = max_iterations - self._count
      x, _ = scipy.sparse.linalg.minres(scaled, rest, rtol=_EPS, maxiter=left, **options)
      self._look(x)
      if self._best[1] > before / 2:
        return
      self._begin = self._best[0]
      rest = self._b - self._times(self._begin)

  def _times(self, v):
    v = np.ravel(v)
    product = np.array(self._matrix.product(v), np.float64)
    if not np.isfinite(product).all():
      raise ValueError(
        f"product of iteration {self._count}: expected finite numbers, got NaN or infinity"
      )
    product += self._damping * v
    return product

  def _upward(self, v):
    """Returns the product with a direction of positive curvature."""
    product = self._times(v)
    if v.any() and not np.vdot(v, product) > 0:
      raise _Indefinite
    return product

  def _called(self, x):
    self._count, self._last = self._count + 1, x
    self._advance()
    if self._count == self._next:
      self._next += max(1, self._count // 5)
      self._look(x)

  def _look(self, x):
    """Computes a residual; ends the iterations if it is small."""
    x = self._begin + (x if self._scale == 1 else x / self._scale)
    residual = float(np.linalg.norm(self._times(x) - self._b) / self._length)
    if residual < self._best[1]:
      self._best = x, residual
    if residual <= self._tolerance:
      raise _Enough


def _deflation(eigenpairs, n, damping):
  """Returns the preconditioner by known eigenpairs.

  It gives their eigenvalues the size of the least of them.
  """
  if not isinstance(eigenpairs, Eigenpairs):
    raise TypeError(
      f"eigenpairs: expected the result of top_eigenpairs, got {type(eigenpairs).__name__}"
    )
  values = np.asarray(eigenpairs.values) + damping
  vectors = np.asarray(eigenpairs.vectors)
  if vectors.shape != (len(values), n):
    raise ValueError(f"eigenpairs: expected vectors (k, {n}), got shape {vectors.shape}")
  if not values.min() > 0:
    raise ValueError(
      f"eigenpairs: expected positive eigenvalues with the damping, got {values.min():.3g}: leave "
      "the negative ones out, or damp more"
    )
  factors = values.min() / values - 1

  def apply(v):
    v = np.ravel(v)
    return v + (factors * (vectors @ v)) @ vectors

  return scipy.sparse.linalg.LinearOperator((n, n), matvec=apply, dtype=np.float64)


def _to_bytes(result):
  buffer = io.BytesIO()
  np.savez(buffer, x=result.x, rest=json.dumps(result[1:]))
  return buffer.getvalue()


def _from_bytes(content):
  with np.load(io.BytesIO(content)) as found:
    return Solution(found["x"], *json.loads(str(found["rest"])))
