"""Numbers and prose as the text of a page."""

import math


def number(x: float, digits: int = 3) -> str:
  """Returns a number as text of so many digits, such as 1,234."""
  if not math.isfinite(x):
    return str(x)
  if x != 0 and not 1e-3 <= abs(x) < 1e6:
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"
  if abs(x) >= 10 ** (digits - 1):
    return f"{x:,.0f}"
  return f"{x:.{digits}g}"


def with_error(x: float, error: float, digits: int = 3) -> str:
  """Returns "x ± error", without an error that is NaN."""
  return number(x, digits) if math.isnan(error) else f"{number(x, digits)} ± {number(error, 2)}"


def prose(text: str, /) -> str:
  """Returns a text of several lines on one line."""
  return " ".join(text.split())
