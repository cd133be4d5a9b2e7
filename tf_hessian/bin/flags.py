"""Flags that the commands share, and their start-up."""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment, such as configs/mnist_mlp.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoint, state, results.")
INTRA_THREADS = flags.DEFINE_integer(
  "intra_op_threads", 0, "Threads inside one operation; 0: TensorFlow's choice.", lower_bound=0
)
INTER_THREADS = flags.DEFINE_integer(
  "inter_op_threads", 0, "Operations at the same time; 0: TensorFlow's choice.", lower_bound=0
)


def run(main, /):
  """Runs a command; mistakes of the user end it with one line and exit code 1."""
  flags.mark_flags_as_required(["config", "workdir"])
  run_plain(main)


def run_plain(main, /):
  """Runs a command that has no config."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

  def guarded(argv):
    if len(argv) > 1:
      raise app.UsageError(f"unknown argument {argv[1]!r}")
    logging.use_absl_handler()
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    try:
      main()
    except KeyboardInterrupt:
      sys.exit("interrupted; the same command goes on from here")
    except (TypeError, ValueError, OSError) as e:
      if logging.level_debug():
        raise
      sys.exit(f"error: {e}")

  def parse(argv):
    try:
      return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as e:  # an override of a field that the config doesn't have
      sys.exit(f"error: {e.args[0]}")

  app.run(guarded, flags_parser=parse)


def set_threads():
  """Applies the flags of the machine; before TensorFlow has initialised its devices."""
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(INTRA_THREADS.value)
  tf.config.threading.set_inter_op_parallelism_threads(INTER_THREADS.value)
