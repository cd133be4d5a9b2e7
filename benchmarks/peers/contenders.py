"""The PyTorch packages as contenders: see `worker` for what they have in common.

Imports PyTorch, a package when it is used, and of tf_hessian what needs NumPy and SciPy only.
"""

import importlib.metadata

import numpy as np
import torch

from benchmarks.peers import kernels, networks
from benchmarks.peers.problem import keras_vector, torch_arrays, torch_name, torch_vector
from tf_hessian.numerics import density, probes, quadrature
from tf_hessian.numerics.lanczos import Lanczos

_GRID_POINTS = 20_000  # of densities whose package wants a number


class TorchContender:
  """A network with the problem's weights and data, and its plain gradient.

  Attributes:
    distribution: the package on PyPI.
    package: what is imported of it.
    matrices: those that the package has.
    fused: norms of which it gets PyTorch's own function, as the faster one that is right.
    runs_density: whether the package's density run is measured, or its product only.
    shares_passes: whether several products can share a pass over the data.
  """

  distribution = package = ""
  matrices = ("hessian",)
  fused = ("layer",)
  runs_density = True
  shares_passes = False

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    if matrix not in self.matrices:
      raise ValueError(f"{self.distribution} has {', '.join(self.matrices)}, got {matrix}")
    self._layout = problem.names, problem.shapes
    self._dtype = np.dtype(dtype)
    self.net = networks.make(problem.network, fused=self.fused).to(getattr(torch, dtype))
    names, self.parameters = zip(*self.net.named_parameters(), strict=True)
    expected = tuple(torch_name(n) for n in problem.names)
    if names != expected:
      raise ValueError(f"the networks differ: expected the parameters {expected}, got {names}")
    with torch.no_grad():
      for p, a in zip(self.parameters, self._arrays(problem.parameters), strict=True):
        p.copy_(a)
    self.loss = networks.CrossEntropy()
    self.data = [(self._inputs(x), torch.from_numpy(y)) for x, y in problem.batches()]
    self._vector = None

  @property
  def versions(self):
    return {name: importlib.metadata.version(name) for name in (self.distribution, "torch")}

  def set_up(self, draws, steps):  # noqa: ARG002 - nothing of it depends on their numbers
    """Does what comes once before a density run."""
    self.set_vector(np.ones(sum(p.numel() for p in self.parameters)))
    self.product()

  def mean_loss(self):
    with torch.no_grad():
      return sum(float(self.loss(self.net(x), y)) * w for x, y, w in self._weighted())

  def gradient(self):
    """Returns the tensors of the gradient of the mean loss."""
    total = None
    for x, y, weight in self._weighted():
      parts = torch.autograd.grad(self.loss(self.net(x), y) * weight, self.parameters)
      total = parts if total is None else [t + g for t, g in zip(total, parts, strict=True)]
    return total

  def set_vector(self, v):
    """Takes the vector (n,) of the products to come, in Keras's order."""
    self._vector = self.native(v)

  def native(self, v):
    """Returns a vector as the package wants it: here flat (n,)."""
    return torch.from_numpy(torch_vector(v, *self._layout).astype(self._dtype))

  def to_keras(self, result):
    """Returns a product or a gradient as (n,) float64, in Keras's order."""
    if isinstance(result, torch.Tensor):
      result = torch.split(result, [p.numel() for p in self.parameters])
      result = [t.reshape(p.shape) for t, p in zip(result, self.parameters, strict=True)]
    return keras_vector([t.detach().numpy() for t in result], self._layout[0])

  def _arrays(self, vector):
    arrays = torch_arrays(np.asarray(vector, self._dtype), *self._layout)
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]

  def _weighted(self):
    total = sum(len(y) for _, y in self.data)
    return [(x, y, len(y) / total) for x, y in self.data]

  def _inputs(self, array):
    """Returns images with channels first, or tokens as they are."""
    if array.dtype != np.float32:
      return torch.from_numpy(array)
    axes = (0, 3, 1, 2) if array.ndim == 4 else (0, 1)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes), self._dtype))


class PyHessian(TorchContender):
  """PyHessian: its product in our own recurrence, since its own density run fails.

  A data set of one batch is given as such: PyHessian then keeps the gradient's graph and goes back
  through it once a product. It has no Gauss-Newton matrix.
  """

  distribution = "PyHessian"
  package = "pyhessian"

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    super().__init__(problem, dtype, matrix)
    import pyhessian
    from pyhessian.utils import hessian_vector_product

    if len(self.data) == 1:
      self._hessian = pyhessian.hessian(self.net, self.loss, data=self.data[0], cuda=False)
      gradient, parameters = self._hessian.gradsH, self._hessian.params
      self._times = lambda v: hessian_vector_product(gradient, parameters, v)
    else:
      self._hessian = pyhessian.hessian(self.net, self.loss, dataloader=self.data, cuda=False)
      self._times = lambda v: self._hessian.dataloader_hv_product(v)[1]

  def native(self, v):
    return self._arrays(v)

  def product(self):
    return self._times(self._vector)

  def own_density_error(self):
    """Returns the first line of what the package's own density run fails with, or ""."""
    try:
      self._hessian.density(iter=1, n_v=1)
    except Exception as e:  # whatever it is, it is what a user sees
      return f"{type(e).__name__}: {str(e).splitlines()[0]}"
    return ""

  def density(self, *, draws, steps, sigma, seed, low, high):  # noqa: ARG002
    n = sum(p.numel() for p in self.parameters)
    rules = []
    for draw in range(draws):
      state = Lanczos.start(probes.probe(seed, draw, n), steps)
      state.run(lambda q: self.to_keras(self._times(self._arrays(q))))
      rules.append(quadrature.gauss_quadrature(*state.tridiagonal()))
    nodes, weights = [q.nodes for q in rules], [q.weights for q in rules]
    grid, values, _ = density.density(nodes, weights, sigma**2)
    return grid, values


class Curvlinops(TorchContender):
  """curvlinops: `lanczos_approximate_spectrum` of a `HessianLinearOperator`, or the GGN's products.

  It is told the ends of the spectrum, for which it would else run `eigsh` first. Its matrices are
  those of the mean over examples, as the loss's reduction is "mean".
  """

  distribution = "curvlinops-for-pytorch"
  package = "curvlinops"
  matrices = ("hessian", "gauss_newton")
  fused = ()
  shares_passes = True

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    super().__init__(problem, dtype, matrix)
    import curvlinops

    operator = {
      "hessian": curvlinops.HessianLinearOperator,
      "gauss_newton": curvlinops.GGNLinearOperator,
    }[matrix]
    # Checks that losses, gradients and products repeat, unless it is told not to.
    self._operator = operator(self.net, self.loss, list(self.parameters), self.data)
    self._vectors = None

  def product(self):
    return self._operator @ self._vector

  def set_vectors(self, vectors):
    self._vectors = torch.stack([self.native(v) for v in vectors], 1)

  def products(self):
    return (self._operator @ self._vectors).unbind(1)

  def density(self, *, draws, steps, sigma, seed, low, high):
    from curvlinops import lanczos_approximate_spectrum

    torch.manual_seed(seed)
    grid, values = lanczos_approximate_spectrum(
      self._operator,
      steps,
      num_points=_GRID_POINTS,
      num_repeats=draws,
      boundaries=(low, high),
      **kernels.curvlinops_kernel(low, high, steps, sigma),
    )
    return grid.double().numpy(), values.double().numpy()


class CurvlinopsFused(Curvlinops):
  """The same through PyTorch's own norms: products only, and the Hessian's are wrong."""

  fused = ("batch", "layer")
  runs_density = False


class HessianEigenthings(TorchContender):
  """hessian-eigenthings: `spectral_density` of a `HessianOperator`, or a `GGNOperator`'s products.

  Both are means over batches without weights, so batches must be of one size. Neither takes several
  vectors.
  """

  distribution = "hessian-eigenthings"
  package = "hessian_eigenthings"
  matrices = ("hessian", "gauss_newton")
  method = "autograd"

  def __init__(self, problem, dtype="float32", matrix="hessian"):
    super().__init__(problem, dtype, matrix)
    import hessian_eigenthings as package

    if matrix == "gauss_newton":
      loss = package.supervised_loss_of_output(self.loss)
      self._operator = package.GGNOperator(self.net, self.data, package.supervised_forward, loss)
    else:
      loss = package.supervised_loss(self.loss)
      self._operator = package.HessianOperator(self.net, self.data, loss, method=self.method)

  def product(self):
    return self._operator @ self._vector

  def density(self, *, draws, steps, sigma, seed, low, high):
    from hessian_eigenthings import spectral_density

    result = spectral_density(
      self._operator,
      num_runs=draws,
      lanczos_steps=steps,
      num_grid_points=_GRID_POINTS,
      sigma=sigma,
      grid_padding=9 * sigma / (high - low),  # the default cuts wide kernels off
      seed=1000 * (seed + 1),  # its draws have the seeds seed, seed + 1, ...
    )
    return result.grid.double().numpy(), result.density.double().numpy()


class HessianEigenthingsFused(HessianEigenthings):
  """The same through PyTorch's own batch norm: products only."""

  fused = ("batch", "layer")
  runs_density = False


class HessianEigenthingsDifferences(HessianEigenthings):
  """The same by differences of gradients: the product only, since ReLUs make it another matrix."""

  method = "finite_difference"
  runs_density = False


CONTENDERS = {
  "PyHessian": PyHessian,
  "curvlinops": Curvlinops,
  "hessian-eigenthings": HessianEigenthings,
  "curvlinops, nn.BatchNorm2d": CurvlinopsFused,
  "curvlinops, nn.LayerNorm": CurvlinopsFused,
  "hessian-eigenthings, nn.BatchNorm2d": HessianEigenthingsFused,
  "hessian-eigenthings, finite differences": HessianEigenthingsDifferences,
}
