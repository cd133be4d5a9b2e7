"""A plan of a density run, as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_hessian.numerics import markup, stopping
from tf_hessian.planning.pilot import ExpectedError
from tf_hessian.slq.progress import clock


@dataclasses.dataclass(frozen=True)
class Passes:
  """Passes of one kind over the data."""

  what: str
  count: int
  vectors: int  # that each multiplies for the run
  for_draws: bool  # or before them
  seconds: float  # of each, without the network
  network_bytes: dict  # design -> bytes of each that a worker receives and sends


@dataclasses.dataclass(frozen=True)
class Plan:
  """Expected time, memory, network and error of a density run.

  `plan` makes it, and `print` shows it as a table. Bytes are of the process that has the Lanczos
  vectors. Seconds are without the network.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> import tf_hessian
  >>> def loss(p, batch):
  ...   return batch * tf.reduce_sum(p[0] ** 4)
  >>> point, data = [tf.Variable([3.0, 1.0])], [np.ones(1, "float32")]
  >>> hessian = tf_hessian.HessianOperator(point, loss, data)
  >>> plan = tf_hessian.plan(hessian, num_draws=2, lanczos_steps=2, pilot_seconds=0)
  >>> plan.num_parameters, plan.num_products >= 4, plan.total_seconds > 0
  (2, True, True)
  """

  num_parameters: int
  num_batches: int
  num_examples: int
  num_draws: int  # of the run; with a target_error, those that it suggests
  lanczos_steps: int
  vectors_per_pass: int
  workers: int
  passes: tuple  # of `Passes`
  startup_seconds: float  # reading the data, and building the functions of a batch
  lanczos_seconds: float  # orthogonalization, and recording each step if there is a workdir
  host_bytes: int  # peak of the process's resident memory
  available_bytes: int  # that the process could have had at the beginning, with what it had
  device_bytes: int | None  # peak on an accelerator; None without one
  basis: str  # kind, such as "memory" or "disk"
  basis_count: int  # bases at a time
  basis_bytes: int  # of the rows of all of these
  basis_place: str
  basis_reason: str
  error: ExpectedError

  @property
  def pass_seconds(self) -> float:
    """Seconds of a pass of the draws."""
    return self._of_draws.seconds

  @property
  def num_passes(self) -> int:
    """Passes over the data of the whole run."""
    return sum(p.count for p in self.passes)

  @property
  def num_products(self) -> int:
    """Products of H with vectors in the whole run."""
    return sum(p.count * p.vectors for p in self.passes)

  @property
  def total_seconds(self) -> float:
    """Seconds of the whole run."""
    passes = sum(p.count * p.seconds for p in self.passes)
    return self.startup_seconds + passes + self.lanczos_seconds

  @property
  def network_bytes(self) -> dict[str, float]:
    """Bytes that a worker moves in the whole run: dict, by design.

    They are those that it receives and sends.
    """
    designs = self._of_draws.network_bytes
    return {d: sum(p.count * p.network_bytes[d] for p in self.passes) for d in designs}

  @property
  def _of_draws(self):
    return max((p for p in self.passes if p.for_draws), key=lambda p: p.count * p.vectors)

  def to_dict(self) -> dict[str, Any]:
    """Returns all of it as plain values, for JSON."""
    derived = ("pass_seconds", "num_passes", "num_products", "total_seconds", "network_bytes")
    return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

  def report(self) -> str:
    """Returns a table: text of a few lines."""
    return "\n".join(f"{name:21s} {text}" for name, text in self._lines())

  def __str__(self) -> str:
    return self.report()

  def _repr_html_(self) -> str:
    return markup.table(self._lines())

  def _lines(self):
    each = self._of_draws
    yield "parameters", f"{self.num_parameters:,}"
    yield "data", f"{self.num_examples:,} examples in {self.num_batches:,} batches"
    yield (
      "draws",
      f"{self.num_draws} of {self.lanczos_steps} steps, {self.vectors_per_pass} to a pass",
    )
    yield (
      "passes",
      f"{self.num_passes:,} for {self.num_products:,} products; {each.seconds:.3g} s a pass "
      f"({each.what})",
    )
    yield "start-up", f"{self.startup_seconds:.3g} s"
    yield "Lanczos", f"{self.lanczos_seconds:.3g} s"
    by = "" if self.workers == 1 else f" by {self.workers} equal machines, without the network"
    yield "total time", f"{clock(self.total_seconds)} ({self.total_seconds:.3g} s){by}"
    yield (
      "peak memory",
      f"{self.host_bytes / 1e9:.3g} GB, of {self.available_bytes / 1e9:.3g} GB that there are",
    )
    if self.device_bytes is not None:
      yield "accelerator's memory", f"{self.device_bytes / 1e9:.3g} GB"
    yield (
      "basis",
      f"{self.basis}: {self.basis_count} of {self.basis_bytes / self.basis_count / 1e9:.3g} GB in "
      f"{self.basis_place}",
    )
    yield "", self.basis_reason
    yield from self._network_lines(each)
    yield from self._error_lines()

  def _network_lines(self, each):
    if self.workers == 1:
      yield "network", "nothing, in one process"
    for design, total in self.network_bytes.items():
      one = each.network_bytes[design]
      yield (
        "network",
        f"{one / 1e9:.3g} GB a pass, {total / 1e9:.3g} GB in all for each worker ({design})",
      )

  def _error_lines(self):
    e = self.error
    if e.draws is not None:
      yield (
        "error of the draws",
        f"L1 {e.draws:.2g} (integral of the standard error {e.stderr:.2g})",
      )
    if e.steps is not None:
      yield "error of the steps", f"L1 {e.steps:.2g}, by the last {stopping.WINDOW} of a draw"
    if e.draws_for_target is not None:
      yield "target error", f"suggests {e.draws_for_target} draws"
    elif e.target is not None and e.steps is not None:
      yield (
        "target error",
        f"needs more than {self.lanczos_steps} steps; planned are all {self.num_draws} draws",
      )
    if e.reason:
      yield "error not known", e.reason
    if e.pilot_steps:
      yield (
        "errors are by",
        f"{e.pilot_draws} draws of {e.pilot_steps} steps on {e.num_batches} batches, whose "
        "spectrum is not that of all",
      )
