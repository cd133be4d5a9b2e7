"""Figure 18: the kernel and polynomials."""

import numpy as np
from numpy.polynomial import chebyshev as np_chebyshev
import pytest

from tf_hessian.studies import chebyshev_kernel
from tf_hessian.studies.chapter import Verdict

SIGMA = 1e-5**0.5


@pytest.fixture(scope="module")
def half(eigen):
  """Half width of the interval: 1 % more than the spectrum."""
  return 1.01 * (eigen[0][-1] - eigen[0][0]) / 2


@pytest.mark.parametrize("degree", [10, 40, 90])
def test_kernel_error_is_that_of_numpys_truncated_interpolant(degree, l1):
  half = 0.1
  kernel = lambda x: np.exp(-((x * half / SIGMA) ** 2) / 2) / np.sqrt(2 * np.pi) / SIGMA  # noqa: E731
  x = np.linspace(-1, 1, 5001)
  series = np_chebyshev.chebinterpolate(kernel, 500)[: degree + 1]
  found = np_chebyshev.chebval(x, series)
  distance, largest = chebyshev_kernel.kernel_error(degree, half)
  # Grids differ: of |f - g|, which has kinks, the trapezoid's error is below 1 %.
  assert distance == pytest.approx(half * l1(x, found, kernel(x)), rel=0.01)
  expected = np.abs(found - kernel(x)).max() / kernel(0.0)
  assert largest == pytest.approx(expected, rel=0.01)


def test_kernel_error_is_rounding_at_a_high_degree():
  # exp(-(j s)^2 / 2) at j s = 400 x 0.0316 = 12.6 is 3e-35.
  distance, largest = chebyshev_kernel.kernel_error(400, 0.1)
  assert distance < 1e-12 and largest < 1e-13


@pytest.fixture(scope="module")
def made(context, make_study):
  """The study of Figure 18, with a narrower range than the paper's."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(chebyshev_kernel, "PAPER_HALF_WIDTH", 1.5)
    return make_study("18", context)


def test_figure_18_has_the_errors_in_both_ranges(made, context, half):
  numbers = made.numbers
  assert numbers["half_width"] == pytest.approx(half, rel=1e-12)
  for suffix, width in (("", half), ("_paper_range", 1.5)):
    errors = [chebyshev_kernel.kernel_error(d, width) for d in (500, 1000)]
    for i, name in enumerate(("l1", "largest")):
      found = numbers[f"{name}_by_degree{suffix}"]
      assert list(found) == [90, 200, 500, 1000, 2000, 4000]
      assert [found[500], found[1000]] == pytest.approx([e[i] for e in errors], rel=1e-6)
  assert (context.out / "figure_18.png").read_bytes().startswith(b"\x89PNG")
  (table,) = made.tables
  assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("distance, verdict", [(0.11, Verdict.AGREES), (0.09, Verdict.DIFFERS)])
def test_figure_18_agrees_where_degree_500_is_off(
  context, make_study, monkeypatch, distance, verdict
):
  monkeypatch.setattr(chebyshev_kernel, "kernel_error", lambda *_: (distance, 1.0))
  monkeypatch.setattr(chebyshev_kernel, "_draw", lambda *_: None)
  assert make_study("18", context).verdict is verdict
