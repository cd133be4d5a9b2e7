"""This process's place in a cluster: `TF_CONFIG`, strategies by name, and servers.

`TF_CONFIG` is TensorFlow's own variable: JSON with the addresses of all tasks by job, and this
process's job and index. See docs/cluster.md.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time

from absl import logging
import tensorflow as tf

from tf_hessian.distribute import STRATEGIES, errors, machine, members

_JOBS = ("chief", "worker", "ps")
_POLL_SECONDS = 0.2
_PROBE_SECONDS = 5.0
_RELEASE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Task:
  """One process of a cluster.

  Attributes:
    jobs: dict: job ("chief", "worker", "ps") -> list of addresses.
    job: this process's job.
    index: its number in the job.
  """

  jobs: dict
  job: str
  index: int

  @property
  def name(self):
    return f"{self.job} {self.index}"

  @property
  def address(self):
    return self.jobs[self.job][self.index]


def task(environment=None, /):
  """Returns the `Task` that `TF_CONFIG` describes, or None if it is not set.

  Args:
    environment: a mapping; by default the process's environment.

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
      if not (isinstance(address, str) and address.rpartition(":")[2].isdigit()):
        raise ValueError(f"TF_CONFIG: job {name!r}: expected addresses host:port, got {address!r}")
  if not 0 <= index < len(jobs.get(job, ())):
    raise ValueError(f"TF_CONFIG: the cluster has no task {index} of job {job!r}: {jobs}")
  return Task(jobs, job, index)


def make_strategy(name, /, *, num_devices=0):
  """Returns the strategy of that name; None for "one_device".

  Call it before TensorFlow has initialised its devices.

  Args:
    name: one of `STRATEGIES`.
    num_devices: for "mirrored": number of replicas, on accelerators or, where there are none, on
      logical devices of the processor; 0 for all accelerators.

  Raises:
    ValueError: for an unknown name, or a `TF_CONFIG` that doesn't fit it.
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
    return tf.distribute.MultiWorkerMirroredStrategy()
  for job in _JOBS:
    if not here.jobs.get(job):
      raise ValueError(f"strategy parameter_server: TF_CONFIG has no task of job {job!r}")
  if here.job != "chief":
    raise ValueError(f"strategy parameter_server: a {here.job} serves; only the chief has it")
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  return tf.distribute.ParameterServerStrategy(resolver)


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


def serves(strategy, /):
  """Whether this process only serves the chief, as workers and ps of "parameter_server" do."""
  here = task()
  return strategy == "parameter_server" and here is not None and here.job != "chief"


def serve(identity=None, /, *, patience=600.0, deterministic=True):
  """Serves as a worker or parameter server until the chief says that it has finished.

  Args:
    identity: dict of plain values: what it was started for; the chief takes no results of a worker
      that was started for something else.
    patience: seconds without a chief after which it ends.
    deterministic: run operations deterministically.

  Raises:
    ValueError: if `TF_CONFIG` does not describe such a task.
    ClusterError: if the chief ended with an error, refused this task, or has been gone for too
      long.
    OSError: if the port is taken.
  """
  here = task()
  if here is None or here.job == "chief" or "chief" not in here.jobs:
    raise ValueError("TF_CONFIG: expected a worker or ps of a cluster with a chief")
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  members.publish(here.name, identity or {})
  try:
    server = tf.distribute.Server(
      here.jobs,
      job_name=here.job,
      task_index=here.index,
      protocol="grpc",
      config=machine.session_config(),
    )
  except tf.errors.OpError as e:
    raise OSError(f"{here.name} can't serve at {here.address}: {e.message}") from e
  logging.info("%s serves at %s", here.name, here.address)
  try:
    reason = _wait_for_end(here.jobs["chief"], patience)
  finally:
    del server
  if reason:
    raise errors.ClusterError(f"{here.name}: {reason}")


def _wait_for_end(chief, patience):
  """Returns the reason of the end; "" if the chief has finished."""
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
    if not errors.silent(chief):
      seen = now
    elif now - seen > patience:
      return f"the chief at {chief[0]} has not answered for {now - seen:.0f} s"


@contextlib.contextmanager
def released(strategy, /):
  """On the chief of "parameter_server": ends the servers afterwards, also after an error."""
  try:
    yield
  except BaseException as e:
    if strategy == "parameter_server":
      release(f"the chief has ended: {type(e).__name__}: {e}")
    raise
  if strategy == "parameter_server":
    release()


def release(reason="", /):
  """On the chief of "parameter_server": ends the servers.

  Args:
    reason: why they end; "" if all went well.
  """
  here = task()
  threads = []
  for job in ("worker", "ps"):
    for index, address in enumerate(here.jobs.get(job, ())):
      if not errors.silent([address]):
        thread = threading.Thread(target=_release, args=(job, index, reason), daemon=True)
        thread.start()
        threads.append((f"{job} {index}", thread))
  deadline = time.monotonic() + _RELEASE_SECONDS
  for name, thread in threads:
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
      logging.warning("%s hangs, and was not told that the run has ended", name)
      # TensorFlow would wait for it, for ever, when the interpreter clears up.
      atexit.register(_end_at_once, 1 if reason else 0)


def _end_at_once(code):
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _release(job, index, reason):
  try:
    members.end(f"/job:{job}/replica:0/task:{index}", reason)
  except (tf.errors.OpError, RuntimeError) as e:
    logging.warning("%s %d could not be told that the run has ended: %s", job, index, e)
