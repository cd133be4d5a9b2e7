"""Axes of the studies' pictures."""

import pytest

from tf_hessian import plotting
from tf_hessian.studies import drawing


@pytest.mark.parametrize(
  "values, shown, hidden",
  [([1.0, 30.0], {"1", "2", "5", "10", "20"}, set()), ([0.1, 5000.0], {"1", "1,000"}, {"2", "5"})],
)
def test_logarithmic_axis_has_plain_labels(values, shown, hidden):
  figure, axes = plotting.new_figure()
  axes.plot(values, values)
  drawing.plain_log(axes, "y")
  figure.canvas.draw()
  labels = {t.get_text() for t in axes.get_yticklabels()}
  assert axes.get_yscale() == "log"
  assert shown <= labels and not hidden & labels
  assert not any(t.get_text() for t in axes.get_yticklabels(minor=True))
