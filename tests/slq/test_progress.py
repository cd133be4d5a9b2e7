"""What a run shows of its progress."""

import io
import re
import sys
import types

import numpy as np
import pytest

from tf_hessian.slq import progress as progress_lib
from tf_hessian.slq.density import spectral_density
from tf_hessian.slq.progress import Progress
from tf_hessian.slq.run_folder import RunFolder
from tf_hessian.slq.storage import Storage


class Screen(io.StringIO):
  """A fake stderr."""

  def __init__(self, terminal):
    super().__init__()
    self._terminal = terminal

  def isatty(self):
    return self._terminal


@pytest.fixture
def screen(monkeypatch, caplog):
  """Returns a function that replaces stderr by a terminal, or by something else."""
  caplog.set_level("INFO")

  def replace(terminal):
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen

  return replace


def show(total, **options):
  with Progress(total, **options) as progress:
    for step in range(total - options.get("done", 0)):
      progress.advance(f"draw 0, step {step + 1}")


def test_terminal_shows_a_bar(screen, caplog):
  stderr = screen(True)
  show(10)
  assert "10/10" in stderr.getvalue()
  assert not caplog.records


def test_notebook_shows_a_bar(screen, caplog, monkeypatch):
  shell = types.SimpleNamespace(config={"IPKernelApp": {}})
  monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
  stderr = screen(False)
  show(10)
  assert "10/10" in stderr.getvalue() and not caplog.records


def test_no_terminal_gets_log_lines(screen, caplog):
  stderr = screen(False)
  show(10)
  assert "draw 0, step 10: 10 of 10 products" in caplog.text
  assert stderr.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_shown_if_not_wanted(screen, caplog, terminal):
  stderr = screen(terminal)
  show(10, enabled=False)
  assert stderr.getvalue() == ""
  assert not caplog.records


def test_lines_are_logged_at_intervals(screen, caplog, monkeypatch):
  screen(False)
  monkeypatch.setattr(progress_lib, "_LOG_SECONDS", -1.0)
  show(3)
  assert [r.getMessage().split(",")[1] for r in caplog.records] == [
    f" step {i}: {i} of 3 products" for i in (1, 2, 3)
  ]


def test_line_has_seconds_and_time_left(screen, caplog):
  screen(False)
  show(10)
  assert re.search(r"[\d.e-]+ s a pass, \d+:\d\d:\d\d left", caplog.text)


@pytest.mark.parametrize(
  "seconds, text",
  [(0, "0:00:00"), (59.6, "0:01:00"), (3_725, "1:02:05"), (100 * 3_600, "100:00:00")],
)
def test_time_is_hours_minutes_seconds(seconds, text):
  assert progress_lib.clock(seconds) == text


def test_earlier_products_count_but_take_no_time(screen, caplog):
  screen(False)
  show(10, done=6)
  assert "10 of 10 products" in caplog.text


@pytest.mark.parametrize("fail_at", [2, 5, 9, 13])
def test_total_is_reached_after_an_interruption(screen, caplog, counting, tmp_path, fail_at):
  screen(False)
  options = {"num_draws": 3, "lanczos_steps": 5, "seed": 1, "workdir": tmp_path}
  with pytest.raises(RuntimeError):
    spectral_density(counting(fail_at), **options)
  caplog.clear()
  spectral_density(counting(), **options)
  assert "draw 2, step 5: 15 of 15 products" in caplog.text
  assert "16 of" not in caplog.text


def test_draws_that_end_early_reach_the_total(screen, caplog):
  screen(False)
  spectral_density(np.diag([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), num_draws=2, lanczos_steps=6)
  assert "12 of 12 products" in caplog.text


def test_draw_that_ended_early_before_an_interruption_reaches_the_total(
  screen, caplog, tmp_path, monkeypatch
):
  screen(False)
  matrix = np.diag([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])  # each draw ends after 3 steps
  options = {
    "num_draws": 2,
    "lanczos_steps": 6,
    "storage": Storage(vectors_per_pass=2),
    "workdir": tmp_path,
  }
  original, count = RunFolder.save_step, []

  def save_step(self, *arguments):
    count.append(arguments)
    if len(count) == 8:  # of draw 1, when draw 0 is known to have ended
      raise KeyboardInterrupt
    original(self, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(RunFolder, "save_step", save_step)
    with pytest.raises(KeyboardInterrupt):
      spectral_density(matrix, **options)
  caplog.clear()
  spectral_density(matrix, **options)
  assert "draw 1, step 3: 12 of 12 products" in caplog.text
