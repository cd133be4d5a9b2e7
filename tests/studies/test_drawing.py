"""Axes of the studies' pictures."""

import numpy as np
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


def test_curves_are_what_the_axes_show(tmp_path):
  figure, (left, right) = plotting.new_figure(ncols=2)
  x = np.linspace(0, 1, 10_001)
  left.plot(x, x**2, label="square")
  left.plot(x, x)
  left.set_xlim(0.5, 0.75)
  right.plot([1, 2], [3, 1 / 3], label="few")
  square, few = drawing.save(figure, tmp_path / "figure.png")
  assert (tmp_path / "figure.png").exists()
  assert (square["panel"], square["label"], few["panel"]) == (0, "square", 1)
  assert drawing.POINTS / 2 < len(square["x"]) <= drawing.POINTS
  assert square["x"][0] == 0.5 and square["x"][-1] <= 0.75
  np.testing.assert_allclose(square["y"], np.square(square["x"]), rtol=1e-4)
  assert few["x"] == [1, 2] and few["y"] == [3, 0.33333]


def test_peaks_between_the_points_that_are_kept_are_kept(tmp_path):
  figure, axes = plotting.new_figure()
  x = np.linspace(0, 1, 100_001)
  y = np.zeros_like(x)
  y[[0, 4_321, 77_777]] = 1.0, 2.0, -3.0
  axes.plot(x, y, label="peaks")
  (peaks,) = drawing.save(figure, tmp_path / "figure.png")
  assert len(peaks["x"]) <= drawing.POINTS
  found = {a: b for a, b in zip(peaks["x"], peaks["y"], strict=True) if b}
  assert found == {0.0: 1.0, 0.04321: 2.0, 0.77777: -3.0}
  assert peaks["x"] == sorted(peaks["x"])


def test_error_of_each_point_of_a_line_is_kept(tmp_path):
  figure, axes = plotting.new_figure()
  x = np.linspace(0, 1, 5_001)
  axes.plot(x, x**2, label="estimate")
  axes.plot(x, x, label="exact")
  axes.set_xlim(0.2, 0.6)
  estimate, exact = drawing.save(figure, tmp_path / "figure.png", errors={"estimate": 3 * x})
  np.testing.assert_allclose(estimate["error"], 3 * np.array(estimate["x"]), rtol=1e-4)
  assert "error" not in exact
