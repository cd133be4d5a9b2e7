"""Lines about long computations, shown also without logging set up."""

from __future__ import annotations

import logging as python_logging
import sys
from typing import TextIO

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
    write_line(text % args, sys.stderr)


def write_line(text: str, stream: TextIO | None, /) -> None:
  """Writes a line in one piece, so that threads' lines stay whole.

  `print` writes the line and its end apart.

  Args:
    text: the line, without its end.
    stream: where to; None, as of programs without a console, for nowhere.
  """
  if stream is not None:
    stream.write(f"{text}\n")
    stream.flush()
