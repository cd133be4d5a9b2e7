"""What goes wrong in a cluster, in words."""

import socket


class ClusterError(ConnectionError):
  """A process of the cluster is gone; what was computed is kept, and the run can be resumed."""


class DisagreementError(ValueError):
  """Processes of one run measure different things; raised by all of them at once."""


def silent(addresses, /, *, seconds=2.0):
  """Returns the addresses ("host:port") at which nobody answers."""
  return [a for a in addresses if not _answers(a, seconds)]


def _answers(address, seconds):
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
      return True
  except OSError:
    return False


def differences(expected, found, /):
  """Yields a sentence for each value of `found` that is another than in `expected`.

  Args:
    expected: nested dict of plain values; the chief's.
    found: the other's; only keys that both have are compared, except below the first level.
  """
  for key in sorted(expected.keys() & found.keys()):
    yield from _compare(key, expected[key], found[key])


def _compare(key, a, b):
  if isinstance(a, dict) and isinstance(b, dict):
    for name in sorted(a.keys() | b.keys()):
      yield from _compare(f"{key}.{name}", a.get(name), b.get(name))
  elif a != b:
    yield f"{key}: the chief has {a!r}, this has {b!r}"
