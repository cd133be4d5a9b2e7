"""Log lines of the commands."""

from __future__ import annotations

import codecs
import logging as python_logging
import sys

from absl import logging

_SPELLED = {"±": "+-", "²": "^2", "σ": "sigma", "–": "-", "×": "x"}


def make_printable() -> None:
  """Lets terminals and pipes without UTF-8 show other letters.

  They would fail otherwise.
  """

  def spell(error):
    if not isinstance(error, UnicodeEncodeError):
      raise error
    found = error.object[error.start : error.end]
    text = (_SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found)
    return "".join(text), error.end

  codecs.register_error("tf_hessian.spell", spell)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="tf_hessian.spell")


def set_up() -> None:
  """Shows the package's log lines, and some of TensorFlow's.

  Those are shown that users can do something about.
  """
  logging.use_absl_handler()
  logging.get_absl_handler().addFilter(_is_worth_showing)
  logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))


def _is_worth_showing(record):
  """Whether a line is shown; shortens TensorFlow's errors to a line.

  Lines about TensorFlow's own doings are left out.
  """
  is_tfds = "/tensorflow_datasets/" in record.pathname and record.levelno == python_logging.INFO
  if logging.level_debug() or not (is_tfds or "/tensorflow/" in record.pathname):
    return True
  if record.levelno < python_logging.WARNING or "Remote function" in str(record.msg):
    return False
  record.msg, record.args = record.getMessage().split("\n")[0][:300], ()
  return "encountered the following error" not in record.msg  # of each shard, when a ps is gone
