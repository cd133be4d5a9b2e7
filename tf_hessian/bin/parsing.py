"""Reading flags: whatever is wrong with them ends the command with one line and exit code 1."""

from __future__ import annotations

from collections.abc import Sequence
import errno
import math
import sys
from typing import NoReturn

from absl import flags

from tf_hessian.bin import config_flag  # noqa: F401 - registers the parsers of its fields
from tf_hessian.experiments import configs

_LARGEST, _LARGEST_COUNT = 10**15, 10**12  # of bytes, say; of integers
_RENAMED = {  # since version 0.1.0
  "basis": "--storage and --storage_dtype",
  "memory_budget": "--storage_memory, in bytes,",
  "draws_per_pass": "--vectors_per_pass",
}


def parse(argv: Sequence[str], /) -> list[str]:
  """Parses the flags, and returns the arguments that are none.

  It is the `flags_parser` of `app.run`.
  """
  try:
    rest = flags.FLAGS(argv)
    _check_numbers()
  except SystemExit:  # by --help and the like, with 1, though nothing has failed
    sys.exit(0)
  except flags.UnrecognizedFlagError as e:
    if e.flagname in _RENAMED:
      fail(f"Unknown command line flag {e.flagname!r}: it is {_RENAMED[e.flagname]} now")
    if e.flagname.startswith("config."):
      fail(f"{e}: a config has such fields; with --model and --data give --config=own_model too")
    found = configs.fields_named(flags.FLAGS["config"].value or {}, e.flagname)
    fail(f"{e}" + "".join(f"; there is --config.{f}" for f in found))
  except flags.Error as e:
    fail(f"{e} (--helpshort lists the flags)")
  except (AttributeError, KeyError, ValueError, TypeError, IndexError) as e:
    fail(f"an override of a config's field can't be read: {e}")  # by ml_collections
  return rest


def fail(what: object, /) -> NoReturn:
  """Ends the process with a line about an error.

  The exit code is 1.
  """
  sys.exit(f"error: {' '.join(str(what).split()) or type(what).__name__}")


def is_of_memory(error: BaseException, /) -> bool:
  """Whether an error is one of memory.

  TensorFlow's is known by its name, as it may not be imported.
  """
  names = {k.__name__ for k in type(error).__mro__}
  return (
    bool(names & {"MemoryError", "ResourceExhaustedError"})
    or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    or (isinstance(error, ImportError) and "failed to map segment" in str(error))
  )


def _check_numbers():
  """Refuses numbers that no flag can mean.

  Those are NaN, infinity, and numbers beyond all sizes.
  """
  for module, known in flags.FLAGS.flags_by_module_dict().items():
    for flag in known if module.startswith("tf_hessian.bin.") else ():
      value = flag.value
      if isinstance(value, float) and not math.isfinite(value):
        raise flags.IllegalFlagValueError(f"flag --{flag.name}={value}: expected a finite number")
      largest = _LARGEST_COUNT if isinstance(value, int) else _LARGEST
      if isinstance(value, (int, float)) and abs(value) > largest:
        raise flags.IllegalFlagValueError(
          f"flag --{flag.name}={value}: expected a number up to {largest:,}"
        )
