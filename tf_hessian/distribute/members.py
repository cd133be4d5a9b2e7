"""Notes that the processes of a parameter-server cluster leave each other.

Each server keeps them in its own memory, as files of TensorFlow's file system `ram://`, which the
chief reads and writes by operations that run there. So nothing has to be shared or listened to but
TensorFlow's own ports.
"""

from __future__ import annotations

import json
from typing import Any
import uuid

import tensorflow as tf

KERNELS = "kernels"  # in an identity: see `kernels.digest`
_IDENTITY = "ram://tf_hessian/identity"
_END = "ram://tf_hessian/end"


def publish(task: str, identity: dict[str, Any], /) -> None:
  """In a server: leaves its identity for the chief.

  Args:
    task: its name, such as "worker 1".
    identity: dict of plain values: what it was started for.
  """
  note = {"task": task, "start": uuid.uuid4().hex, "identity": identity}
  for path in (_IDENTITY, _END):
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
  tf.io.write_file(_IDENTITY, json.dumps(note))


def read_in_graph() -> tf.Tensor:
  """Returns the note of the process that runs this, in a graph; "" where there is none."""
  return tf.cond(
    tf.size(tf.io.matching_files(_IDENTITY)) > 0,
    lambda: tf.io.read_file(_IDENTITY),
    lambda: tf.constant(""),
  )


def read(device: str, /) -> str:
  """On the chief: returns the note of the server at a device; "" where there is none.

  Raises:
    tf.errors.OpError: if it can't be reached.
  """
  with tf.device("/job:chief/device:CPU:0"):  # see `end`
    path = tf.constant(_IDENTITY)
  with tf.device(f"{device}/device:CPU:0"):
    try:
      return tf.io.read_file(path).numpy().decode()
    except tf.errors.NotFoundError:
      return ""


def end(device: str, reason: str, start: str = "", /) -> None:
  """On the chief: tells the server at a device to end.

  Args:
    device: such as "/job:worker/replica:0/task:1".
    reason: "" if all went well.
    start: only the process that has this mark in its note.

  Raises:
    tf.errors.OpError: if it can't be reached.
  """
  # Here, not there: sending them to a process that hangs would hold Python's lock.
  with tf.device("/job:chief/device:CPU:0"):
    path, note = tf.constant(_END), tf.constant(json.dumps({"reason": reason, "start": start}))
  with tf.device(f"{device}/device:CPU:0"):
    tf.io.write_file(path, note)


def ending() -> str | None:
  """In a server: returns None, or the reason why it is to end ("" if all went well)."""
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
