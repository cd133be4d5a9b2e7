"""Lines about long computations, shown also without logging set up."""

from __future__ import annotations

import logging as python_logging
import sys

from absl import logging


def show(text: str, /, *args: object) -> None:
  """Logs a line, or writes it to the standard error.

  The latter where log lines of this level would be lost, as in a plain script.

  Args:
    text: the line, with % places for `args`.
    *args: the values.
  """
  logger = logging.get_absl_logger()
  if logger.isEnabledFor(python_logging.INFO) and logger.hasHandlers():
    logging.info(text, *args)
  else:
    print(text % args, file=sys.stderr, flush=True)
