"""What a study leaves: a claim, what came out, pictures, tables and numbers, as a JSON file."""

import dataclasses
import enum
import json
import math
import pathlib

from tf_hessian import files

FORMAT = "tf_hessian.study"
FORMAT_VERSION = 1


class Verdict(enum.Enum):
  """How what came out relates to the claim."""

  AGREES = "agrees"
  DIFFERS = "differs"
  OPEN = "open"


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text below a header."""

  columns: tuple  # of str
  rows: tuple  # of tuples of str, each as long as `columns`
  caption: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
  """A result of the paper, or one beyond it, and what came out here.

  Attributes:
    figure: what --figure calls it, such as "15".
    title: a heading.
    section: where the paper has it; "" for what it does not have.
    claim: what the paper claims, or what is to be shown; a sentence.
    found: what came out, with its numbers; a sentence.
    verdict: a `Verdict`.
    reason: why it differs, or what is open; paragraphs of Markdown, empty where there is nothing to
      say.
    numbers: dict of plain values.
    pictures: dict: file name in the folder of results -> caption.
    tables: of `Table`.
    command: what makes it.
    seconds: that the command took, with what earlier ones had left for it.
    versions: of the packages that made it.
    device: what it ran on.
  """

  figure: str
  title: str
  section: str
  claim: str
  found: str
  verdict: Verdict
  reason: str = ""
  numbers: dict = dataclasses.field(default_factory=dict)
  pictures: dict = dataclasses.field(default_factory=dict)
  tables: tuple = ()
  command: str = ""
  seconds: float = 0.0
  versions: dict = dataclasses.field(default_factory=dict)
  device: str = ""

  def line(self):
    """Returns one line: what is claimed, what came out, whether they agree."""
    source = "paper" if self.section else "to show"
    why = "" if self.verdict is Verdict.AGREES else " (the page says why)"
    return f"{self.title}: {source}: {self.claim} Here: {self.found} -> {self.verdict.value}{why}"

  def save(self, folder):
    """Writes `figure_<id>.json` into a folder, whole or not at all."""
    content = dataclasses.asdict(self) | {
      "format": FORMAT,
      "format_version": FORMAT_VERSION,
      "verdict": self.verdict.name,
    }
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    files.write_text(path(folder, self.figure), text)


def _without_nan(value):
  """Returns plain values with None for NaN and infinity, which JSON does not have."""
  if isinstance(value, dict):
    return {k: _without_nan(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def path(folder, figure, /):
  """Returns the path of a figure's JSON file in a folder of results."""
  return pathlib.Path(folder) / f"figure_{figure}.json"


def load(file, /):
  """Reads what `Study.save` wrote.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged, of another kind, or of a newer format.
  """
  file = pathlib.Path(file)
  try:
    content = dict(json.loads(file.read_text()))
  except (ValueError, TypeError) as e:
    raise ValueError(f"{file}: damaged ({e}); make the figure again") from e
  if content.pop("format", None) != FORMAT:
    raise ValueError(f"{file}: expected format {FORMAT!r}; it is another kind of file")
  try:
    version = content.pop("format_version")
    if not isinstance(version, int):
      raise TypeError(f"format_version {version!r} is no number")
    if version > FORMAT_VERSION:
      raise ValueError(f"{file}: it has format version {version}: install a newer tf_hessian")
    content["verdict"] = Verdict[content["verdict"]]
    content["tables"] = tuple(
      Table(tuple(t["columns"]), tuple(map(tuple, t["rows"])), t["caption"])
      for t in content["tables"]
    )
    return Study(**content)
  except (KeyError, TypeError) as e:
    raise ValueError(f"{file}: damaged: {e}; make the figure again") from e


def number(x, digits=3):
  """Returns a number as text: so many digits, and 1,234 for large ones."""
  if not math.isfinite(x):
    return str(x)
  if x != 0 and not 1e-3 <= abs(x) < 1e6:
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"
  if abs(x) >= 10 ** (digits - 1):
    return f"{x:,.0f}"
  return f"{x:.{digits}g}"


def with_error(x, error, digits=3):
  """Returns "x ± error"; the error is left out where it is not known."""
  return number(x, digits) if error != error else f"{number(x, digits)} ± {number(error, 2)}"


def prose(text, /):
  """Returns a text on one line, however it is broken in the source."""
  return " ".join(text.split())
