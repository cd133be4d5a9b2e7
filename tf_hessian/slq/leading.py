"""Work that the chief of several workers does, with their help in the passes over the data."""

from tf_hessian.distribute import errors


def lead(operator, compute, encode, decode, /):
  """Returns the result of `compute`, which runs on the chief alone; the others follow its passes.

  Args:
    operator: a `HessianOperator` whose workers have agreed.
    compute: function () -> result.
    encode: function (result) -> bytes that the other workers get.
    decode: function (bytes) -> result.

  Raises:
    ClusterError: on the others, if the chief has ended with an error, or a worker is gone.
  """
  engine = operator.engine
  if not engine.leads:
    return decode(operator.follow())
  try:
    result = compute()
  except (errors.ClusterError, errors.DisagreementError):
    raise  # there is nobody left to be told, or everybody knows
  except BaseException as e:
    engine.finish(b"", f"{type(e).__name__}: {e}")
    raise
  engine.finish(encode(result) if engine.followers else b"")
  return result
