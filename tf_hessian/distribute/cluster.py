"""This process's place in a cluster: `TF_CONFIG`, strategies by name, and servers.

`TF_CONFIG` is TensorFlow's own variable: JSON with the addresses of all tasks by job, and this
process's job and index. docs/cluster.md tells more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import functools
import json
import os
import socket
import time
from typing import Any

from absl import logging
import tensorflow as tf

from tf_hessian.distribute import (
  STRATEGIES,
  calls,
  errors,
  interrupts,
  kernels,
  machine,
  meeting,
  members,
)

_JOBS = ("chief", "worker", "ps")
_POLL_SECONDS = 0.2
_PROBE_SECONDS = 5.0
_RELEASE_SECONDS = 5.0
_CONNECT_SECONDS = 60.0  # at least, as all tasks are there
_MOST_PORT = 65535


@dataclasses.dataclass(frozen=True)
class Task:
  """One process of a cluster.

  Attributes:
    jobs: dict: job ("chief", "worker", "ps") -> list of addresses.
    job: this process's job.
    index: its number in the job.
  """

  jobs: dict[str, list[str]]
  job: str
  index: int

  @property
  def name(self) -> str:
    return f"{self.job} {self.index}"

  @property
  def address(self) -> str:
    return self.jobs[self.job][self.index]

  @property
  def peers(self) -> dict[str, str]:
    """The other tasks: a dict, name -> address."""
    every = {f"{job} {i}": a for job, jobs in self.jobs.items() for i, a in enumerate(jobs)}
    return {name: address for name, address in every.items() if name != self.name}


def task(environment: Mapping[str, str] | None = None, /) -> Task | None:
  """Returns the `Task` of `TF_CONFIG`; None if that is not set.

  Args:
    environment: variables by name; by default the process's environment.

  Raises:
    ValueError: if `TF_CONFIG` isn't what TensorFlow expects.
  """
  text = (os.environ if environment is None else environment).get("TF_CONFIG", "")
  if not text:
    return None
  try:
    config = json.loads(text)
    jobs = {job: list(addresses) for job, addresses in config["cluster"].items()}
    job, index = config["task"]["type"], int(config["task"]["index"])
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      'TF_CONFIG: expected JSON like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
      f'"worker", "index": 0}}}}, got {text[:200]!r} ({type(e).__name__}: {e})'
    ) from e
  for name, addresses in jobs.items():
    if name not in _JOBS:
      raise ValueError(f"TF_CONFIG: unknown job {name!r}; expected {', '.join(_JOBS)}")
    for address in addresses:
      port = address.rpartition(":")[2] if isinstance(address, str) else ""
      if not (port.isdecimal() and len(port) < 6 and 0 < int(port) <= _MOST_PORT):
        raise ValueError(f"TF_CONFIG: job {name!r}: expected addresses host:port, got {address!r}")
  every = [a for addresses in jobs.values() for a in addresses]
  for address in every:
    if every.count(address) > 1:
      raise ValueError(f"TF_CONFIG: several tasks have the address {address}; each needs its own")
  if not 0 <= index < len(jobs.get(job, ())):
    raise ValueError(f"TF_CONFIG: the cluster has no task {index} of job {job!r}: {jobs}")
  return Task(jobs, job, index)


def make_strategy(
  name: str, /, *, num_devices: int = 0, patience: float = 600.0
) -> tf.distribute.Strategy | None:
  """Returns the strategy of that name; None for "one_device".

  Call it before TensorFlow has initialised its devices. In a cluster it waits for the other tasks.

  Args:
    name: one of `STRATEGIES`.
    num_devices: for "mirrored": number of replicas, on accelerators or, if there are none, on
      logical devices of the processor; 0, the default, for all accelerators.
    patience: seconds that the other tasks of a cluster are waited for; the default leaves machines
      time to start.

  Raises:
    ValueError: for an unknown name, or a `TF_CONFIG` that doesn't fit it.
    ClusterError: if a task does not come; says which.
    OSError: if this task's port is taken.
  """
  if name not in STRATEGIES:
    raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}")
  if num_devices and name != "mirrored":
    raise ValueError(f"number of devices: is for the strategy mirrored, not {name}")
  here = task()
  if name == "one_device":
    if here is not None:
      raise ValueError(
        "strategy one_device: TF_CONFIG describes a cluster, whose tasks would all do the same; "
        "choose multi_worker or parameter_server, or unset TF_CONFIG"
      )
    return None
  if name == "mirrored":
    return tf.distribute.MirroredStrategy(_local_devices(num_devices))
  if here is None:
    raise ValueError(f"strategy {name}: set TF_CONFIG in each process (docs/cluster.md)")
  if name == "multi_worker":
    if "ps" in here.jobs:
      raise ValueError("strategy multi_worker: TF_CONFIG has a job 'ps', which it doesn't use")
    with meeting.point(here):
      meeting.wait_for(here, patience)
    return _connected(here, tf.distribute.MultiWorkerMirroredStrategy, patience)
  for job in _JOBS:
    if not here.jobs.get(job):
      raise ValueError(f"strategy parameter_server: TF_CONFIG has no task of job {job!r}")
  if here.job != "chief":
    raise ValueError(f"strategy parameter_server: a {here.job} serves; only the chief has it")
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  with meeting.point(here, answers=False):
    meeting.wait_for(here, patience)
  return _connected(here, lambda: tf.distribute.ParameterServerStrategy(resolver), patience)


def _connected(here, build, patience):
  """Returns the strategy that `build` makes once all tasks are there."""
  _say_who_can_reach(here)
  try:
    with meeting.limited(max(patience, _CONNECT_SECONDS)):
      return build()
  except tf.errors.OpError as e:
    interrupts.end_at_once_at_exit(1)
    silent = meeting.silent(here.peers)
    who = f"no answer from {meeting.listed(silent)}" if silent else meeting.first_line(e)
    raise errors.ClusterError(
      f"{here.name}: the tasks can't be connected: {who}. Start all tasks again with the same "
      "commands"
    ) from e


def _say_who_can_reach(here):
  """Warns of strangers, unless nobody outside of this machine can connect."""
  if all(name.startswith("lo") for _, name in socket.if_nameindex()):
    return
  logging.warning(
    "%s listens at port %s of all network interfaces, and TensorFlow runs whatever it is sent "
    "there: see to it that only this cluster's machines can reach it, by a private network, a "
    "network policy or a firewall (docs/cluster.md)",
    here.name,
    here.address.rpartition(":")[2],
  )


def _local_devices(count):
  accelerators = tf.config.list_physical_devices("GPU")
  if accelerators:
    if count > len(accelerators):
      raise ValueError(f"strategy mirrored: {count} devices wanted, there are {len(accelerators)}")
    return [f"GPU:{i}" for i in range(count)] or None
  if not count:
    raise ValueError(
      "strategy mirrored: there is no accelerator; say how many logical devices of the processor "
      "to use with --num_devices"
    )
  cpu = tf.config.list_physical_devices("CPU")[0]
  devices = [tf.config.LogicalDeviceConfiguration()] * count
  try:
    tf.config.set_logical_device_configuration(cpu, devices)
  except RuntimeError as e:
    raise ValueError(f"strategy mirrored: {count} CPU devices can't be made any more: {e}") from e
  return [f"CPU:{i}" for i in range(count)]


def serves(strategy: str, /) -> bool:
  """Returns whether this process only serves the chief.

  Workers and parameter servers of the strategy "parameter_server" do.
  """
  here = task()
  return strategy == "parameter_server" and here is not None and here.job != "chief"


def serve(
  identity: dict[str, Any] | None = None, /, *, patience: float = 600.0, deterministic: bool = True
) -> None:
  """Serves as worker or parameter server until the chief has finished.

  Args:
    identity: plain values that say what it was started for; None for none. The chief takes no
      results of a worker that was started for something else.
    patience: seconds without a chief after which it ends.
    deterministic: whether to run operations deterministically, and to let the chief compare the
      kernels, as by default.

  Raises:
    ValueError: if `TF_CONFIG` does not describe such a task.
    ClusterError: if the chief ended with an error, refused this task, or has been gone for too
      long.
    OSError: if the port is taken.
  """
  here = task()
  if here is None or here.job == "chief" or "chief" not in here.jobs:
    raise ValueError("TF_CONFIG: expected a worker or ps of a cluster with a chief")
  with meeting.point(here, answers=False):
    pass
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  with interrupts.bounded():
    about = {members.KERNELS: kernels.digest()} if deterministic else {}
    reason = _serve(here, (identity or {}) | about, patience)
    if reason:
      raise errors.ClusterError(f"{here.name}: {reason}")


def _serve(here, identity, patience):
  """Serves until told to end; returns the reason.

  It is "" if the chief has finished.
  """
  members.publish(here.name, identity)
  try:
    server = tf.distribute.Server(
      here.jobs,
      job_name=here.job,
      task_index=here.index,
      protocol="grpc",
      config=machine.session_config(),
    )
  except tf.errors.OpError as e:
    raise meeting.port_error(here, meeting.first_line(e)) from e
  logging.info("%s serves at %s", here.name, here.address)
  _say_who_can_reach(here)
  try:
    return _wait_for_end(here, patience)
  finally:
    del server


def _wait_for_end(here, patience):
  """Returns the reason of the end; "" if the chief has finished."""
  chief = here.jobs["chief"]
  seen = probed = time.monotonic()
  while True:
    time.sleep(_POLL_SECONDS)
    reason = members.ending()
    if reason is not None:
      return reason
    now = time.monotonic()
    if now - probed < min(_PROBE_SECONDS, patience / 2):
      continue
    probed = now
    if not errors.silent(chief, served=True):
      seen = now
    elif now - seen > patience:
      others = meeting.silent({n: a for n, a in here.peers.items() if a not in chief})
      also = f", and it doesn't begin without {meeting.listed(others)}" if others else ""
      return (
        f"the chief at {chief[0]} has not answered for {now - seen:.0f} s{also}; start all tasks "
        "again with the same commands"
      )


@contextlib.contextmanager
def released(strategy: str, /) -> Iterator[None]:
  """Ends the servers of "parameter_server" after the code within.

  A context manager for the chief, which ends them after an error too.

  In each process of a cluster, Ctrl-C ends the code within, also while it waits for another.
  """
  if strategy not in ("multi_worker", "parameter_server"):
    yield
    return
  with interrupts.bounded():
    try:
      yield
    except BaseException as e:
      if strategy == "parameter_server":
        release(f"the chief has ended: {type(e).__name__}: {e}")
      raise
    if strategy == "parameter_server":
      release()


def release(reason: str = "", /) -> None:
  """Ends the servers of "parameter_server", on the chief.

  >>> import tf_hessian
  >>> try:  # the last line of the chief's program
  ...   tf_hessian.release()
  ... except ValueError as e:
  ...   print(e)
  release(): TF_CONFIG: expected the chief of a cluster, and it is not set

  Args:
    reason: why they end; "", the default, if all went well.

  Raises:
    ValueError: if this process is in no cluster.
  """
  here = task()
  if here is None:
    raise ValueError("release(): TF_CONFIG: expected the chief of a cluster, and it is not set")
  begun = {}
  silent = errors.silent(list(here.peers.values()))
  for job in ("worker", "ps"):
    for index, address in enumerate(here.jobs.get(job, ())):
      if address not in silent:
        begun[calls.start(functools.partial(_release, job, index, reason))] = f"{job} {index}"
  for call in futures.wait(begun, _RELEASE_SECONDS).not_done:
    logging.warning("%s hangs, and was not told that the run has ended", begun[call])
    # TensorFlow would wait for it, for ever, when the interpreter clears up.
    interrupts.end_at_once_at_exit(1 if reason else 0)


def _release(job, index, reason):
  try:
    members.end(f"/job:{job}/replica:0/task:{index}", reason)
  except (tf.errors.OpError, RuntimeError) as e:
    logging.warning("%s %d could not be told that the run has ended: %s", job, index, e)
