"""JAX as a contender, with matfree and by hand: see `worker` for what they have in common.

Imports JAX, and of tf_hessian what needs NumPy and SciPy only.
"""

import functools
import importlib.metadata

import jax
from jax import lax
import jax.numpy as jnp
from matfree import decomp
import numpy as np

from benchmarks.peers import jax_networks
from tf_hessian.numerics import density, quadrature

_ROWS = 15  # by which the basis grows, so that a step reads no more than it needs


class JaxContender:
  """A network with the problem's weights and data, its gradient and its products.

  Vectors are flat, in Keras's order.
  """

  matrices = ("hessian",)
  shares_passes = False
  distributions = ("jax", "jaxlib")

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    if matrix not in self.matrices:
      raise ValueError(f"JAX's contenders have {', '.join(self.matrices)}, got {matrix}")
    if len(problem.labels) % problem.batch_size:
      raise ValueError(
        f"JAX's contenders stack the batches: {len(problem.labels)} examples are no batches of "
        f"{problem.batch_size}"
      )
    if dtype == "float64":
      jax.config.update("jax_enable_x64", True)
    self._has_convolutions = problem.network == "resnet32"
    self._loss = functools.partial(
      self._flat_loss, self._network(problem.network), problem.names, problem.shapes
    )
    self._theta = jnp.asarray(problem.parameters, dtype)
    x, y = (np.stack(arrays) for arrays in zip(*problem.batches(), strict=True))
    self._data = jnp.asarray(x, dtype if x.dtype == np.float32 else None), jnp.asarray(y)
    self._batches = list(zip(*self._data, strict=True))
    self._vector = self._run = None

  @property
  def versions(self):
    return {name: importlib.metadata.version(name) for name in self.distributions}

  def mean_loss(self):
    return float(self._mean(self._batch_loss))

  def gradient(self):
    return jax.block_until_ready(self._mean(self._batch_gradient))

  def set_vector(self, v):
    self._vector = jnp.asarray(v, self._theta.dtype)

  def product(self):
    return jax.block_until_ready(self._mean(self._batch_product, self._vector))

  def to_keras(self, result):
    """Returns a product or a gradient as (n,) float64."""
    return np.asarray(result, np.float64)

  def density(self, *, draws, steps, sigma, seed, low, high):  # noqa: ARG002
    """Returns (grid, values); the function for so many draws and steps is compiled in `set_up`."""
    found = self._tridiagonals(self._start_vectors(seed, draws), steps)
    rules = [quadrature.gauss_quadrature(*t) for t in found]
    nodes, weights = [q.nodes for q in rules], [q.weights for q in rules]
    grid, values, _ = density.density(nodes, weights, sigma**2)
    return grid, values

  @functools.cached_property
  def _batch_loss(self):
    return jax.jit(self._loss)

  @functools.cached_property
  def _batch_gradient(self):
    return jax.jit(jax.grad(self._loss))

  @functools.cached_property
  def _batch_product(self):
    return jax.jit(lambda theta, x, y, v: self._hvp(theta, x, y)(v))

  def _hvp(self, theta, x, y):
    """Returns the function v -> H v of one batch, at a fixed point."""
    return jax.linearize(lambda t: jax.grad(self._loss)(t, x, y), theta)[1]

  def _mean_hvp(self, theta, data):
    """Returns the function v -> H v of all batches, whose loop is linearized as a whole."""

    def mean_loss(t):
      return lax.map(lambda batch: self._loss(t, *batch), data).mean()

    return jax.linearize(jax.grad(mean_loss), theta)[1]

  def _mean(self, function, *arguments):
    """Returns the mean of a compiled function over the batches, one after the other."""
    found = [function(self._theta, x, y, *arguments) for x, y in self._batches]
    return sum(found) / len(found)

  def _start_vectors(self, seed, draws):
    """Returns (draws, n) vectors of length 1; the function is compiled once."""
    return self._normal(jax.random.key(seed), (draws, self._theta.size), self._theta.dtype)

  @functools.cached_property
  def _normal(self):
    def normal(key, shape, dtype):
      v = jax.random.normal(key, shape, dtype)
      return v / jnp.linalg.norm(v, axis=1, keepdims=True)

    return jax.jit(normal, static_argnums=(1, 2))

  def _compiled(self, function, draws):
    v = jax.block_until_ready(self._start_vectors(0, draws))
    return jax.jit(function).lower(self._theta, self._data, v).compile()

  def _network(self, name):
    return jax_networks.NETWORKS[name]

  @staticmethod
  def _flat_loss(network, names, shapes, theta, x, y):
    parts = jnp.split(theta, np.cumsum([int(np.prod(s)) for s in shapes])[:-1].tolist())
    p = {n: a.reshape(s) for n, a, s in zip(names, parts, shapes, strict=True)}
    return jax_networks.loss(network, p, x, y)


class Matfree(JaxContender):
  """matfree's `tridiag_sym`, compiled as a whole: the draws by `vmap`.

  Its loop has the products inside. For ResNet-32 the draws go one after the other, as together they
  take more memory than most machines have, the batches are linearized one at a time, and
  convolutions are products of matrices.
  """

  distributions = ("matfree", "jax", "jaxlib")

  def set_up(self, draws, steps):
    tridiagonalize = decomp.tridiag_sym(steps, reortho="full")

    def run(theta, data, v):
      if self._has_convolutions:
        product = functools.partial(self._product_of_batches, theta, data)
        return lax.map(lambda q: tridiagonalize(product, q).J_small, v)
      product = self._mean_hvp(theta, data)
      return jax.vmap(lambda q: tridiagonalize(product, q).J_small)(v)

    self._run = self._compiled(run, draws)

  def _tridiagonals(self, v, steps):  # noqa: ARG002
    """Returns (diagonal, off-diagonal) of each draw."""
    matrices = np.asarray(self._run(self._theta, self._data, v), np.float64)
    return [(np.diag(t), np.diag(t, 1)) for t in matrices]

  def _product_of_batches(self, theta, data, v):
    def add(total, batch):
      return total + self._hvp(theta, *batch)(v), None

    return lax.scan(add, jnp.zeros_like(v), data)[0] / len(data[1])

  def _network(self, name):
    network = super()._network(name)
    if self._has_convolutions:
      return functools.partial(network, convolve=jax_networks.convolution_of_patches)
    return network


class ByHand(JaxContender):
  """Lanczos in `jax.numpy`: all draws together, two Gram-Schmidt passes.

  One compiled function, but for ResNet-32, whose convolutions are slow inside a loop: there Python
  goes through batches and steps.
  """

  def set_up(self, draws, steps):
    if not self._has_convolutions:
      self._run = self._compiled(functools.partial(self._lanczos, steps), draws)
      return

    def add_products(total, theta, x, y, q):
      return total + jax.vmap(self._hvp(theta, x, y))(q) / len(self._batches)

    v = jax.block_until_ready(self._start_vectors(0, draws))
    basis = jax.ShapeDtypeStruct((draws, steps, self._theta.size), v.dtype)
    add_products = jax.jit(add_products, donate_argnums=0)
    self._add_products = add_products.lower(v, self._theta, *self._batches[0], v).compile()
    step = jax.jit(_step, donate_argnums=0)
    self._step = step.lower(basis, v, v, jax.ShapeDtypeStruct((), jnp.int32)).compile()

  def _tridiagonals(self, v, steps):
    """Returns (diagonal, off-diagonal) of each draw."""
    if self._run is not None:
      alphas, betas = self._run(self._theta, self._data, v)
    else:
      alphas, betas = self._steps_in_python(v, steps)
    alphas, betas = np.array(alphas, np.float64).T, np.array(betas, np.float64).T
    return [(a, b[:-1]) for a, b in zip(alphas, betas, strict=True)]

  def _steps_in_python(self, v, steps):
    """Returns lists of alphas and betas, (draws,) for each step."""
    basis = jnp.asarray(np.zeros((len(v), steps, v.shape[1]), v.dtype))
    alphas, betas = [], []
    for j in range(steps):
      w = jnp.asarray(np.zeros(v.shape, v.dtype))
      for x, y in self._batches:
        w = self._add_products(w, self._theta, x, y, v)
      basis, v, alpha, beta = self._step(basis, v, w, np.int32(j))
      alphas.append(alpha)
      betas.append(beta)
    return alphas, betas

  def _lanczos(self, steps, theta, data, v):
    """Returns alphas and betas, (steps, draws), from vectors (draws, n) of length 1."""
    products = jax.vmap(self._mean_hvp(theta, data))
    basis, alphas, betas = jnp.zeros((len(v), 0, v.shape[1]), v.dtype), [], []
    for first in range(0, steps, _ROWS):
      count = min(_ROWS, steps - first)
      basis = jnp.pad(basis, ((0, 0), (0, count), (0, 0)))

      def body(state, j):
        basis, q, alpha, beta = _step(*state, products(state[1]), j)
        return (basis, q), (alpha, beta)

      (basis, v), found = lax.scan(body, (basis, v), jnp.arange(first, first + count))
      alphas.append(found[0])
      betas.append(found[1])
    return jnp.concatenate(alphas), jnp.concatenate(betas)


def _step(basis, q, w, j):
  """Orthogonalizes products w (k, n) of the vectors q of step j against the basis (k, rows, n).

  Returns:
    The basis with q, the next vectors, alphas and betas (k,).
  """
  basis = lax.dynamic_update_slice(basis, q[:, None], (0, j, 0))
  alpha = jnp.einsum("kn,kn->k", q, w)
  for _ in range(2):
    w = w - jnp.einsum("kmn,km->kn", basis, jnp.einsum("kmn,kn->km", basis, w))
  beta = jnp.linalg.norm(w, axis=1)
  return basis, w / beta[:, None], alpha, beta


CONTENDERS = {"JAX, matfree": Matfree, "JAX, by hand": ByHand}
