"""Flags of a plan before a run."""

from absl import flags

PLAN = flags.DEFINE_bool(
  "plan", False, "Say what the run will take, by timing two batches, and write nothing."
)
WORKERS = flags.DEFINE_integer(
  "plan_workers", None, "The same for so many equal machines that share the batches.", 1, 10**6
)


def options():
  """Returns the flags as arguments of `commands.spectrum`."""
  return {"plan_workers": WORKERS.value or (1 if PLAN.value else None)}
