"""Flags of who computes; docs/cluster.md."""

from absl import flags

from tf_hessian.distribute import STRATEGIES

STRATEGY = flags.DEFINE_enum(
  "strategy", "one_device", STRATEGIES, "Who computes. The last two read TF_CONFIG."
)
DEVICES = flags.DEFINE_integer(
  "num_devices", 0, "Replicas of mirrored; 0: all accelerators.", 0, 1024
)
PATIENCE = flags.DEFINE_float(
  "patience", 600.0, "Seconds that the tasks of a cluster wait for each other.", lower_bound=1.0
)
flags.register_validator(
  "patience", lambda seconds: seconds <= 1e7, "a number of seconds up to 1e7 is expected"
)


def options():
  """Returns the flags as arguments of `commands.train` and `commands.spectrum`."""
  return {
    "strategy": STRATEGY.value,
    "num_devices": DEVICES.value,
    "patience": PATIENCE.value,
  }
