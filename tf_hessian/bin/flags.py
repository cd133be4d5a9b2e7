"""Flags that the commands share, and their start-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import sys

from absl import app, flags, logging

from tf_hessian import installed, quiet
from tf_hessian.bin import config_flag, kinds, logs, parsing, usage

CONFIG = config_flag.define_config("config", "Experiment, such as configs/mnist_mlp.py.")
WORKDIR = kinds.define_path("workdir", None, "Folder of the run: checkpoint, state, results.")

_SMALLER = (
  "give it more, or make it smaller: config.hessian.batch_size or config.train.batch_size, "
  "--recompute_blocks=4, --vectors_per_pass=1, --storage=disk; what is on disk is kept, and the "
  "same command goes on from there"
)


def run(main: Callable[[], None], /, *, needed: Sequence[str] = ("config", "workdir")) -> None:
  """Runs a command.

  Mistakes of the user end it with one line and exit code 1.

  Args:
    main: function () that does what the command is for.
    needed: flags that must be given.
  """
  flags.mark_flags_as_required(needed)
  _run(main)


def run_plain(main: Callable[..., None], /, *, arguments: bool = False) -> None:
  """Runs a command that has neither config nor folder.

  With `arguments`, main is given what is no flag.
  """
  _run(main, unused=("config", "workdir"), arguments=arguments)


def _run(main, *, unused=(), arguments=False):
  quiet.import_quietly()
  logs.make_printable()
  try:
    installed.check()
  except ImportError as e:
    parsing.fail(e)

  def guarded(argv):
    if len(argv) > 1 and not arguments:
      parsing.fail(f"unknown argument {argv[1]!r} (--helpshort lists the flags)")
    for name in unused:
      if flags.FLAGS[name].present:
        more = "; what it hands on goes after --" if arguments else ""
        parsing.fail(f"--{name}: this command has no such flag{more}")
    logs.set_up()
    try:
      main(argv[1:]) if arguments else main()
    except KeyboardInterrupt:
      sys.exit("interrupted; the same command goes on from here")
    except Exception as e:
      if parsing.is_of_memory(e):
        parsing.fail(f"out of memory ({str(e)[:200]}): {_SMALLER}")
      if not isinstance(e, (TypeError, ValueError, OSError)) or logging.level_debug():
        raise
      parsing.fail(e)

  if usage.is_asked_for(sys.argv):
    print(usage.text(main.__globals__["__doc__"], own=not unused))
    return
  app.run(guarded, flags_parser=parsing.parse)
