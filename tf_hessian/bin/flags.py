"""Flags that the commands share, and their start-up."""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from tf_hessian.bin import logs
from tf_hessian.experiments import configs

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment, such as configs/mnist_mlp.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoint, state, results.")


def run(main, /):
  """Runs a command; mistakes of the user end it with one line and exit code 1."""
  flags.mark_flags_as_required(["config", "workdir"])
  run_plain(main)


def run_plain(main, /, *, arguments=False):
  """Runs a command that has no config; with `arguments`, main is given what is no flag."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

  def guarded(argv):
    if len(argv) > 1 and not arguments:
      raise app.UsageError(f"unknown argument {argv[1]!r}")
    logs.set_up()
    try:
      main(argv[1:]) if arguments else main()
    except KeyboardInterrupt:
      sys.exit("interrupted; the same command goes on from here")
    except (TypeError, ValueError, OSError) as e:
      if logging.level_debug():
        raise
      sys.exit(f"error: {e}")

  def parse(argv):
    try:
      return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as e:
      fields = configs.fields_named(flags.FLAGS["config"].value or {}, e.flagname)
      sys.exit(f"error: {e}" + "".join(f"; there is --config.{f}" for f in fields))
    except flags.Error as e:
      sys.exit(f"error: {e} (--helpshort lists the flags)")
    except AttributeError as e:  # an override of a field that the config doesn't have
      sys.exit(f"error: {e.args[0]}")
    except KeyError as e:
      sys.exit(f"error: an override names a field that the config doesn't have: {e.args[0]}")

  # So that --help shows the flags that commands share, too.
  for module, known in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("tf_hessian.bin."):
      for flag in known:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(guarded, flags_parser=parse)
