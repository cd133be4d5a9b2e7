"""Errors of a cluster, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import socket
from typing import Any

from tf_hessian import records

# gRPC is spoken over HTTP/2, in which both sides begin with settings: here, with none.
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
_TYPE = 3  # place of a frame's type in its header


class ClusterError(ConnectionError):
  """Loss of a process of the cluster.

  What was computed is kept, and the run can be resumed.
  """


class DisagreementError(ValueError):
  """Difference in what the processes of one run measure.

  All of them raise it at once.
  """


def silent(addresses: Sequence[str], /, *, seconds: float = 2.0, served: bool = False) -> list[str]:
  """Returns the addresses ("host:port") at which nobody answers.

  Args:
    addresses: the addresses; all are asked at the same time.
    seconds: seconds that each is waited for.
    served: whether to ask for TensorFlow's protocol too. A process that was stopped, or another
      program that holds the port, only lets the system's kernel answer. By default that is enough.
  """
  if len(addresses) < 2:
    return [a for a in addresses if not _answers(a, seconds, served)]
  with concurrent.futures.ThreadPoolExecutor(min(32, len(addresses))) as pool:
    answers = list(pool.map(lambda a: _answers(a, seconds, served), addresses))
  return [a for a, answer in zip(addresses, answers, strict=True) if not answer]


def _answers(address, seconds, served):
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
      if not served:
        return True
      connection.sendall(_GREETING)
      header = b""
      while len(header) < len(SETTINGS):
        received = connection.recv(len(SETTINGS) - len(header))
        if not received:
          return False
        header += received
      return header[_TYPE] == SETTINGS[_TYPE]
  except (OSError, OverflowError):
    return False


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], /) -> Iterator[str]:
  """Yields a sentence for each value that differs from the expected.

  Args:
    expected: nested dict of plain values: the chief's.
    found: the same of another process. Only keys that both have are compared, except below the
      first level.
  """
  common = expected.keys() & found.keys()
  for d in records.differences(*({key: r[key] for key in common} for r in (expected, found))):
    yield f"{d.name}: the chief has {d.first!r}, this has {d.second!r}"
