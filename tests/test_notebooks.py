"""Results as notebooks show them: tables of HTML."""

import html.parser

import numpy as np
import pytest
import tensorflow as tf

import tf_hessian
from tf_hessian.curvature.selfcheck import OperatorReport
from tf_hessian.numerics.markup import table
from tf_hessian.numerics.results import Eigenpairs, EigenpairStatus


class Cells(html.parser.HTMLParser):
  """The rows of a table, as a parser reads them."""

  def __init__(self, text):
    super().__init__()
    self.rows, self._open = [], []
    self.feed(text)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, _):
    self._open.append(tag)
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open[-1] in ("td", "th"):
      self.rows[-1][-1] += data


def test_cells_are_what_was_given():
  found = Cells(table([("a < b & c", 1.23456789), ("n", 12345678)], ("name", "value"))).rows
  assert found == [["name", "value"], ["a < b & c", "1.23457"], ["n", "12345678"]]


def test_eigenpairs_are_a_table():
  pairs = Eigenpairs(
    np.array([2.0, -1.0]), np.eye(2), np.array([1e-9, 0.0]), EigenpairStatus.CONVERGED, 7
  )
  text = pairs._repr_html_()
  assert Cells(text).rows == [["eigenvalue", "residual"], ["2", "1e-09"], ["-1", "0"]]
  assert "7 products" in text


@pytest.fixture(scope="module")
def matrix():
  return np.diag(np.arange(6.0))


def test_spectrum_is_a_table(matrix):
  spectrum = tf_hessian.spectral_density(matrix, num_draws=2, lanczos_steps=6, progress=False)
  rows = dict(Cells(spectrum._repr_html_()).rows)
  assert rows["parameters"] == "6" and rows["draws"] == "2 of 6 steps"
  assert rows["largest"].startswith("5, ") and "±" in rows["trace"]


def test_plan_is_a_table():
  point = [tf.Variable(np.ones(6))]
  operator = tf_hessian.HessianOperator(
    point, lambda p, batch: batch * tf.reduce_sum(p[0] ** 4), [np.ones(1)]
  )
  plan = tf_hessian.plan(operator, num_draws=2, lanczos_steps=6)
  rows = Cells(plan._repr_html_()).rows
  assert ["parameters", "6"] in rows and len(rows) > 5


@pytest.mark.parametrize("problems, passed", [((), "True"), (("it is <b>wrong</b>",), "False")])
def test_report_is_a_table(problems, passed):
  report = OperatorReport(True, 1e-9, 1e-4, 1e-8, "", 1e-6, problems, "float64")
  rows = dict(Cells(report._repr_html_()).rows)
  assert rows["passed"] == passed and rows["difference"] == "1e-08 in float64"
  assert [rows[k] for k in rows if k.startswith("problem")] == list(problems)
