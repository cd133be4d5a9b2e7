"""What tells the matrix of a run from others, for records and for those who go on with it."""

import hashlib

from tf_hessian.curvature.operator import HessianOperator
from tf_hessian.numerics import probes


def describe(operator, /):
  """Returns what defines a matrix apart from its point: a dict of plain values."""
  if isinstance(operator, HessianOperator):
    names = [list(operator.parameter_names), [list(s) for s in operator.parameter_shapes]]
    return operator.description() | {"variables": hashlib.sha256(repr(names).encode()).hexdigest()}
  return {"operator": type(operator).__name__}


def digest(operator, /):
  """Returns a digest of the point at which H is taken; for other operators, of a product."""
  if not isinstance(operator, HessianOperator):
    return product_digest(operator)
  return _hash(p.numpy() for p in operator.objective.parameters + operator.objective.context)


def product_digest(operator, /):
  """Returns a digest of a product, by which another function of the same variables is noticed.

  None for products that don't repeat bitwise.
  """
  if not getattr(operator, "deterministic", True):
    return None
  return _hash([operator @ known_vector(operator.shape[0])])


def known_vector(n, /):
  """Returns the vector (n,) whose product a matrix is known by."""
  return probes.probe(0, probes.Stream.KNOWN_VECTOR, n)


def start_name(start, /):
  """Returns what the start of a run is known by on record: None, "gradient" or a digest."""
  return start if start is None or isinstance(start, str) else _hash([start])


def _hash(arrays):
  result = hashlib.blake2b(digest_size=16)
  for array in arrays:
    result.update(array.tobytes())
  return result.hexdigest()
