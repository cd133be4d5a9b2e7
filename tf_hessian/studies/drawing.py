"""Axes of the studies' pictures."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tf_hessian.studies.chapter import number

_FEW_DECADES = 2.5  # 1, 2 and 5 have ticks on so many


def plain_log(axes: Axes, which: str, /) -> None:
  """Makes an axis logarithmic, with ticks such as 0.5, 1 and 2,000.

  To be called when all is drawn.

  Args:
    axes: what is drawn into.
    which: "x" or "y".
  """
  axes.set(**{f"{which}scale": "log"})
  axis: Axis = getattr(axes, f"{which}axis")
  low, high = axis.get_view_interval()
  subs = (1.0, 2.0, 5.0) if high / low < 10**_FEW_DECADES else (1.0,)
  axis.set_major_locator(LogLocator(subs=subs))
  axis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
  axis.set_minor_formatter(NullFormatter())
