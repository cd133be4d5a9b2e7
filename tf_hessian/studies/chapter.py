"""A study in words: claim, finding, verdict, tables, pictures, and its numbers as text."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import enum
import math


class Verdict(enum.Enum):
  """Relation of a finding to the claim."""

  AGREES = "agrees"
  DIFFERS = "differs"
  EXPLAINED = "differs, explained"
  OPEN = "open"


def judged(agrees: bool, differs: bool, /, *, enough: bool = True) -> Verdict:
  """Returns a verdict: open where neither holds, or seeds are too few."""
  if not enough:
    return Verdict.OPEN
  return Verdict.AGREES if agrees else Verdict.DIFFERS if differs else Verdict.OPEN


def together(verdicts: Iterable[Verdict], /) -> Verdict:
  """Returns the verdict of a claim by those of its parts.

  It is theirs where they are the same; else one that differs decides, and open is left.
  """
  found = set(verdicts)
  if len(found) == 1:
    return found.pop()
  return Verdict.DIFFERS if Verdict.DIFFERS in found else Verdict.OPEN


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text below a header."""

  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]  # each as long as `columns`
  caption: str = ""


def claims(rows: Iterable[tuple[str, str, Verdict]], /) -> Table:
  """Returns the table of a claim's parts: (claim, finding, verdict) each."""
  return Table(("the claim", "here", ""), tuple((c, f, v.value) for c, f, v in rows))


@dataclasses.dataclass(frozen=True)
class Chapter:
  """One study on the page.

  Attributes:
    title: a heading.
    section: where the paper has it; "" for what it does not have.
    claim: what the paper claims, or what is to be shown; a sentence.
    found: what came out, with its numbers; a sentence.
    verdict: a `Verdict`.
    reason: why it differs, or what is open; paragraphs of Markdown, empty where there is nothing to
      say.
    pictures: dict: file name in the folder of results -> caption.
    tables: below the verdict, in this order.
  """

  title: str
  section: str
  claim: str
  found: str
  verdict: Verdict
  reason: str = ""
  pictures: dict[str, str] = dataclasses.field(default_factory=dict)
  tables: tuple[Table, ...] = ()

  def line(self) -> str:
    """Returns one line: what is claimed, what came out, whether they agree."""
    source = "paper" if self.section else "to show"
    why = "" if self.verdict is Verdict.AGREES else " (the page says why)"
    return f"{self.title}: {source}: {self.claim} Here: {self.found} -> {self.verdict.value}{why}"


def number(x: float, digits: int = 3, *, zeros: bool = False) -> str:
  """Returns a number as text of so many digits, such as 1,234.

  Args:
    x: the number.
    digits: that count.
    zeros: write these digits also where the last are zeros, as of what was measured.
  """
  if not math.isfinite(x):
    return str(x)
  if x != 0 and not 1e-3 <= abs(x) < 1e6:
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa and not zeros else mantissa
    return f"{mantissa}e{int(exponent)}"
  if abs(x) >= 10 ** (digits - 1):
    return f"{x:,.0f}"
  return f"{x:#.{digits}g}".rstrip(".") if zeros and x else f"{x:.{digits}g}"


def with_error(x: float, error: float, digits: int = 3) -> str:
  """Returns "x ± error", without an error that is NaN."""
  return number(x, digits) if math.isnan(error) else f"{number(x, digits)} ± {number(error, 2)}"


def prose(text: str, /) -> str:
  """Returns a text of several lines on one line."""
  return " ".join(text.split())
