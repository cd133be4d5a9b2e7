"""A task of a cluster that serves, as a command does it."""

from __future__ import annotations

from typing import Any

from tf_hessian.distribute import cluster
from tf_hessian.slq import provenance


def serve(
  *, config: dict[str, Any] | None = None, patience: float = 600.0, deterministic: bool = True
) -> None:
  """Serves as a worker or parameter server until the chief ends.

  `TF_CONFIG` says which; docs/cluster.md has the rest.

  >>> import tf_hessian
  >>> try:  # all that a worker's program has to call
  ...   tf_hessian.serve()
  ... except ValueError as e:
  ...   print(e)
  TF_CONFIG: expected a worker or ps of a cluster with a chief

  Args:
    config: plain values that the chief must have too, or None.
    patience: seconds without a chief after which it ends.
    deterministic: run operations deterministically.

  Raises:
    ValueError: if `TF_CONFIG` does not describe such a task.
    OSError: if the port is taken, or (ClusterError) the chief ended with an error, refused this
      task, or has been gone for too long.
  """
  identity = provenance.identity() | ({} if config is None else {"config": config})
  cluster.serve(identity, patience=patience, deterministic=deterministic)
