"""Lines about long computations reach whoever runs them."""

import subprocess
import sys

import pytest

from tf_hessian import notices

SET_UP = "from absl import logging; logging.use_absl_handler(); logging.set_verbosity(0)\n"


@pytest.mark.parametrize(
  "first, ends",
  [("", "\n3 of 4\n"), (SET_UP, "] 3 of 4\n")],
  ids=["a plain script", "logging set up"],
)
def test_line_is_on_the_standard_error_once(first, ends):
  code = first + "from tf_hessian import notices; notices.show('%d of %d', 3, 4)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert f"\n{done.stderr}".endswith(ends) and done.stderr.count("3 of 4") == 1


def test_line_is_a_log_line_where_those_are_wanted(caplog):
  with caplog.at_level("INFO"):
    notices.show("%s", "here")
  assert [r.getMessage() for r in caplog.records] == ["here"]
