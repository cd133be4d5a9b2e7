"""Algorithm 1 of the paper: k draws of m Lanczos steps on one matrix."""

from __future__ import annotations

import json
import os
from typing import Any

from absl import logging

from tf_hessian import files, folders
from tf_hessian.distribute import machine
from tf_hessian.numerics import checks
from tf_hessian.slq import provenance, run_folder
from tf_hessian.slq.draws import Draws
from tf_hessian.slq.layout import plan_layout
from tf_hessian.slq.matrix import Matrix, as_matrix
from tf_hessian.slq.method import SLQ, make_target
from tf_hessian.slq.run_folder import RunFolder
from tf_hessian.slq.storage import Storage, Workers, as_storage
from tf_hessian.spectrum import Spectrum


def spectral_density(
  operator: Any,
  /,
  *,
  num_draws: int = 10,
  lanczos_steps: int = 90,
  seed: int = 0,
  start: Any = None,
  target_error: float | None = None,
  sigma_squared: float = 1e-5,
  relative: bool = False,
  storage: Storage | None = None,
  check: bool = True,
  workdir: str | os.PathLike | None = None,
  progress: bool = True,
  config: Any = None,
) -> Spectrum:
  """Estimates the whole eigenvalue density of a symmetric matrix.

  With a start vector g of its own, the weights of the single draw are the shares of its energy in
  the eigenvectors q_i, (g' q_i)^2 / |g|^2: the spectral density as g sees it. A converged node has
  its eigenvector's share as its weight, which `Spectrum.mass` adds up.

  >>> import numpy as np
  >>> import tf_hessian
  >>> matrix = np.diag([5.0, 1.0, 0.0, 0.0, 0.0, -1.0])
  >>> spectrum = tf_hessian.spectral_density(matrix, num_draws=10, lanczos_steps=6, progress=False)
  >>> spectrum.largest(1).round(6).tolist(), spectrum.smallest(1).round(6).tolist()
  ([5.0], [-1.0])
  >>> grid, values, stderr = spectrum.density(sigma_squared=1e-2)
  >>> round(float(np.trapezoid(values, grid)), 6)
  1.0

  Args:
    operator: a `HessianOperator`, or a symmetric `scipy.sparse.linalg.LinearOperator` or array, of
      order n. Each of several workers calls this function and gets the result. The chief alone
      takes the Lanczos steps and writes `workdir` (docs/cluster.md).
    num_draws: number k of start vectors (default: the paper's).
    lanczos_steps: number m of Lanczos steps of each (default: the paper's). A number above n is
      lowered to n, which is logged.
    seed: seed of the start vectors.
    start: None for random start vectors, the probes of the paper; "gradient" for the gradient of a
      `HessianOperator`'s mean loss; or a start vector (n,). `num_draws` has to be 1 for the last
      two.
    target_error: error in L1 at which the density is good enough; None takes all draws and steps.
      Draws are added, up to `num_draws`, until the integral of the density's standard error is at
      most this. A draw's steps end, at `lanczos_steps` at the latest, once the last ten have
      changed its density by less. `config["target"]` of the result has both errors, `stderr` and
      `change`, and `reached`.
    sigma_squared: variance of the kernel of that density (default: the paper's).
    relative: whether to multiply it by max(1, range of the nodes), as the original code did; the
      default does not.
    storage: a `Storage`: where Lanczos vectors live, and how many share a pass over the data. None
      chooses by what there is room for.
    check: whether to check first that products and data of a `HessianOperator` repeat and that it
      is symmetric (three products), or that an array is (two); by default, since wrong ones give a
      wrong density. Of other operators symmetry is taken for granted.
    workdir: folder for the state after each step. A run that was interrupted goes on from there and
      ends with bitwise the same tridiagonal matrices. The result is written there too, as
      spectrum.npz and spectrum.json. It has to be new or empty, or hold this run. None keeps
      everything in memory.
    progress: whether to show a bar, or log lines where there is no terminal.
    config: plain values to record in the result, such as an experiment's config; None for none.

  Returns:
    A `Spectrum`.

  Raises:
    TypeError, ValueError: for bad arguments, data, or a matrix that can't be relied on.
    OSError: if `workdir` can't be written, or (ClusterError) other processes of a cluster are gone.
  """
  checks.check_positive("sigma_squared", sigma_squared)
  target = make_target(target_error, sigma_squared, relative)
  method = SLQ(num_draws, lanczos_steps, seed, start, target)
  storage = as_storage(storage)
  if workdir is not None:
    folders.as_path(workdir)
  _check_config(config)
  matrix = as_matrix(operator)
  method = method.of_order(matrix.n)
  matrix.check_start(method.start)
  matrix.agree(
    **provenance.identity(),
    **method.description(),
    config=config,
    draws=method.num_draws,
    seed=method.seed,
    point=matrix.point(),
  )
  draws = Draws(matrix, method, check=check, show=progress)
  workers = matrix.workers(storage.memory)
  return matrix.lead(
    lambda: _measure(draws, storage, workers, workdir, config),
    Spectrum.to_bytes,
    Spectrum.from_bytes,
  )


def _check_config(config):
  try:
    json.dumps(config)
  except TypeError as e:
    raise TypeError(f"config: expected plain values that JSON can hold: {e}") from e


def _measure(
  draws: Draws,
  storage: Storage,
  workers: Workers | None,
  workdir: str | os.PathLike | None,
  config: Any,
) -> Spectrum:
  """Takes the draws of a run, and writes its folder if any."""
  if workdir is not None:
    run_folder.check(workdir)
  matrix, method = draws.matrix, draws.method
  layout = plan_layout(matrix, method, storage, folder=workdir, workers=workers)
  begun = workdir is not None and run_folder.recorded(workdir).get("basis") == "none"
  if not layout.basis.kept and storage.place == "auto" and not begun:
    logging.warning(
      "there is no room for the Lanczos vectors, so none are kept: the density is the same, but it "
      "takes more steps, and an eigenvalue may have several nodes (%s)",
      layout.basis.reason,
    )
  matrix.share(layout.vectors_per_pass)
  return _take(draws, layout, workdir, config)


def _take(draws, layout, workdir, config):
  """Takes the draws in their layout; returns the result."""
  matrix, method = draws.matrix, draws.method
  about = matrix.description() | method.description() | layout.description
  record = about | {
    "config": config,
    "machine": machine.settings(),
    "precision": matrix.precision,
  }
  if workdir is None:
    return draws.result(draws.take(layout, None), record)
  with (
    matrix.as_recorded(run_folder.recorded(workdir)) as product,
    RunFolder(workdir, _identity(matrix, method, product) | about) as folder,
  ):
    result = draws.result(draws.take(layout, folder), record)
    _tell_fewer(folder.path / "spectrum.npz", result.num_draws)
    result.save(folder.path / "spectrum.npz")
    files.write_text(folder.path / "spectrum.json", json.dumps(result.summary(), indent=2))
    folder.clear_all_in_progress()
  return result


def _tell_fewer(path, count):
  """Says that a result of more draws is replaced."""
  try:
    before = Spectrum.load(path).num_draws
  except (OSError, ValueError):  # none, or damaged
    return
  if before > count:
    logging.warning(
      "%s is of %d of the %d draws now that this folder holds; num_draws=%d gives them again",
      path,
      count,
      before,
      before,
    )


def _identity(matrix: Matrix, method: SLQ, product: str | None) -> dict[str, Any]:
  """Returns fingerprints of a run's matrix and draws: plain values.

  Together with their descriptions, they tell the run from others.

  Args:
    matrix: the matrix.
    method: the draws.
    product: digest of a product.
  """
  return {
    "n": matrix.n,
    "seed": method.seed,
    "point": matrix.point(),
    "product": product,
  }
