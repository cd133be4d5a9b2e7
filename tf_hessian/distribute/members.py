"""Notes that the processes of a parameter-server cluster leave each other.

Each server keeps them in its own memory, as files of TensorFlow's file system `ram://`, which the
chief reads and writes by operations that run there. So there are no ports but TensorFlow's own, and
nothing else is shared.
"""

from __future__ import annotations

import json
from typing import Any
import uuid

import tensorflow as tf

KERNELS = "kernels"  # key of an identity, for the digests of `kernels.digest`
_IDENTITY = "ram://tf_hessian/identity"
_END = "ram://tf_hessian/end"


def publish(task: str, identity: dict[str, Any], /) -> None:
  """Leaves the identity of this server for the chief.

  Args:
    task: its name, such as "worker 1".
    identity: plain values that say what it was started for.
  """
  note = {"task": task, "start": uuid.uuid4().hex, "identity": identity}
  for path in (_IDENTITY, _END):
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
  tf.io.write_file(_IDENTITY, json.dumps(note))


def read_in_graph() -> tf.Tensor:
  """Returns the note of the process that runs it; in a graph.

  "" where there is none.
  """
  return tf.cond(
    tf.size(tf.io.matching_files(_IDENTITY)) > 0,
    lambda: tf.io.read_file(_IDENTITY),
    lambda: tf.constant(""),
  )


def read(device: str, /) -> str:
  """Returns the note of the server at a device, on the chief.

  "" where there is none.

  Raises:
    tf.errors.OpError: if it can't be reached.
  """
  with tf.device("/job:chief/device:CPU:0"):  # here, as in `end`
    path = tf.constant(_IDENTITY)
  with tf.device(f"{device}/device:CPU:0"):
    try:
      return tf.io.read_file(path).numpy().decode()
    except tf.errors.NotFoundError:
      return ""


def end(device: str, reason: str, start: str = "", /) -> None:
  """Tells the server at a device to end, on the chief.

  Args:
    device: such as "/job:worker/replica:0/task:1".
    reason: why it is to end; "" if all went well.
    start: mark in the note of the process that is meant; "", the default, for any.

  Raises:
    tf.errors.OpError: if it can't be reached.
  """
  # Here, not there: sending them to a process that hangs would hold Python's lock.
  with tf.device("/job:chief/device:CPU:0"):
    path, note = tf.constant(_END), tf.constant(json.dumps({"reason": reason, "start": start}))
  with tf.device(f"{device}/device:CPU:0"):
    tf.io.write_file(path, note)


def ending() -> str | None:
  """Returns the reason why this server is to end.

  "" if all went well; None if it is not to end.
  """
  if not tf.io.gfile.exists(_END):
    return None
  with tf.io.gfile.GFile(_END) as file:
    text = file.read()
  with tf.io.gfile.GFile(_IDENTITY) as file:
    mine = json.loads(file.read())["start"]
  try:
    note = json.loads(text)
  except ValueError:  # half written
    return None
  return note["reason"] if note["start"] in ("", mine) else None
