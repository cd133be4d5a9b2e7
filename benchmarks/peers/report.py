"""The figures of a comparison: printed, bounded, and in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import platform
from typing import TYPE_CHECKING

import numpy as np
import scipy.integrate

from benchmarks.peers.worker import OURS
from tf_hessian import files
from tf_hessian.numerics.density import l1_distance

if TYPE_CHECKING:
  from benchmarks.peers.__main__ import Setting
  from tf_hessian.numerics.results import Density

SECTION = "peers"
PRODUCTS_SECTION = "peers-products"
# Relative, in float64, where 6e-15 was seen. A wrong padding, axis or constant is in the first
# digits. float32 is no measure: where its rounding moves a ReLU over its kink, the Hessian jumps.
LARGEST_DIFFERENCE = 1e-12
# Of the standard error of a trace, for two estimates of ten draws each.
_LARGEST_DEVIATION = 5.0
# Of the L1 distance that is expected of two runs with different start vectors. curvlinops does not
# reorthogonalise: copies of large eigenvalues take nodes from the rest of its density.
_LARGEST_DISTANCE = 4.0
_NO_BOUND_OF_DISTANCE = ("curvlinops",)
_IDLE = 0.5  # load average up to which a machine counts as such


@dataclasses.dataclass
class Figures:
  """Measurements of one contender.

  Attributes:
    versions: dict: package -> version.
    set_up: seconds before a density run can begin.
    failure: what its own density run fails with, or "".
    counts: whether its density run is compared.
    seconds: dict: "gradient", "product", "density" -> list of one time a round.
    differences: dict: "loss", "gradient", "product" -> relative difference from ours, in float64.
    rounding: relative difference of its product in float32 from that in float64.
    trace: mean of its density, tr(H) / n.
    distance: L1 distance of its density from ours; of ours, the one that is expected of other start
      vectors.
  """

  versions: dict
  set_up: float
  failure: str
  counts: bool
  seconds: dict = dataclasses.field(
    default_factory=lambda: {"gradient": [], "product": [], "density": []}
  )
  differences: dict = dataclasses.field(default_factory=dict)
  rounding: float = np.nan
  trace: float = np.nan
  distance: float = np.nan

  def compare_density(self, grid: np.ndarray, values: np.ndarray, ours: np.ndarray) -> None:
    """Takes its density (g,) on a grid, and ours there."""
    total = scipy.integrate.trapezoid(values, grid)
    self.trace = float(scipy.integrate.trapezoid(grid * values, grid) / total)
    self.distance = float(l1_distance(grid, values, ours))

  def median(self, what: str) -> float:
    """Returns the median seconds of a gradient, product or run."""
    return float(np.median(self.seconds[what]))


class Outcome(dict):
  """Contender -> `Figures` of one problem.

  Attributes:
    network: of the problem.
    setting: the `Setting`.
    sigma: width of the kernel.
    trace: our tr(H) / n and its standard error.
  """

  def __init__(self, network: str, setting: Setting):
    super().__init__()
    self.network = network
    self.setting = setting
    self.sigma = np.nan
    self.trace = (np.nan, np.nan)

  def add(
    self, name: str, *, seconds: float, versions: dict[str, str], failure: str, counts: bool
  ) -> None:
    """Adds a contender that is set up."""
    self[name] = Figures(versions, seconds, failure, counts)
    print(f"{self.network}: {name} set up in {seconds:.1f} s", flush=True)

  @property
  def counted(self) -> list[str]:
    """Names of the contenders whose density runs are compared."""
    return [name for name, figures in self.items() if figures.counts]

  def ratio(self, name: str) -> float:
    """Returns the median ratio of its density run's time to ours."""
    theirs, ours = self[name].seconds["density"], self[OURS].seconds["density"]
    return float(np.median(np.divide(theirs, ours)))

  def fastest(self) -> tuple[str, float]:
    """Returns (name, time / ours) of the fastest peer."""
    return min(((n, self.ratio(n)) for n in self.counted if n != OURS), key=lambda pair: pair[1])


@dataclasses.dataclass(frozen=True)
class About:
  """Machine and settings of a comparison.

  Attributes:
    threads: of each contender.
    rounds: of which medians are taken.
    machine: processor and cores.
    images: those of ResNet-32.
    flags: flags of the command that are not at their defaults, or "".
    load: average number of running processes when it began, which are others'.
  """

  threads: int
  rounds: int
  machine: str
  images: str
  flags: str = ""
  load: float = 0.0


def expected_distance(density: Density) -> float:
  """Returns the mean L1 distance of two densities of such standard error.

  The difference of two normal estimates of the same has the standard deviation sqrt(2) s, and
  its size the mean 2 s / sqrt(pi).
  """
  grid, _, stderr = density
  return float(scipy.integrate.trapezoid(2 * stderr / np.sqrt(np.pi), grid))


def print_differences(outcome: Outcome, name: str) -> None:
  """Prints how far a contender's numbers are from ours."""
  figures = outcome[name]
  listed = ", ".join(f"{k} {v:.1e}" for k, v in figures.differences.items())
  print(f"  {name}: differences from ours in float64: {listed}", flush=True)
  print(f"  {name}: its product in float32 differs by {figures.rounding:.1e}", flush=True)


def unequal_networks(outcome: Outcome) -> list[str]:
  """Lists losses, gradients and products that differ from ours."""
  return [
    f"{outcome.network}: {name}: its {key} differs by {difference:.2g} "
    f"(bound: {LARGEST_DIFFERENCE:g})"
    for name in outcome.counted
    for key, difference in outcome[name].differences.items()
    if not difference <= LARGEST_DIFFERENCE
  ]


def failures(outcome: Outcome) -> list[str]:
  """Returns a line for each figure that misses its bound."""
  name, ratio = outcome.fastest()
  least = outcome.setting.least_ratio
  print(
    f"{outcome.network}: density run of the fastest peer ({name}) / ours: {ratio:.3g} "
    f"(bound: at least {least:g})",
    flush=True,
  )
  lines = [] if ratio >= least else [f"{outcome.network}: {name} takes {ratio:.3g} of our time"]
  for name in outcome.counted:
    lines += [f"{outcome.network}: {name}: {text}" for text in _disagreements(outcome, name)]
  return lines


def _disagreements(outcome, name):
  """Yields how the density of a contender is not ours."""
  figures = outcome[name]
  trace, stderr = outcome.trace
  if not abs(figures.trace - trace) <= _LARGEST_DEVIATION * 2**0.5 * stderr:
    yield f"its trace / n is {figures.trace:.4g}, ours {trace:.4g} +- {stderr:.2g}"
  noise = outcome[OURS].distance
  if name not in _NO_BOUND_OF_DISTANCE and not figures.distance <= _LARGEST_DISTANCE * noise:
    yield f"its density is {figures.distance:.3g} from ours, expected is {noise:.3g}"


def machine() -> str:
  """Returns the processor, and the cores of this process."""
  info = pathlib.Path("/proc/cpuinfo")
  lines = info.read_text().splitlines() if info.exists() else []
  model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "")
  return f"{len(os.sched_getaffinity(0))} cores of {model or platform.machine()}"


def write(path: str | os.PathLike, about: About, outcomes: Sequence[Outcome]) -> None:
  """Writes the figures into their section of a file."""
  write_section(path, SECTION, markdown(about, outcomes))


def write_section(path: str | os.PathLike, name: str, body: str) -> None:
  """Writes a section of a file, which is made if it is not there."""
  path = pathlib.Path(path)
  empty = "\n".join(_empty(n) for n in (SECTION, PRODUCTS_SECTION))
  text = path.read_text() if path.exists() else "# Benchmarks\n\n## Peers\n\n" + empty
  files.write_text(path, replace_section(text, name, body))


def replace_section(text: str, name: str, body: str) -> str:
  """Returns a text with the body of a section replaced.

  Raises:
    ValueError: if the text doesn't have the two markers, once each and in order.
  """
  begin, end = _markers(name)
  if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
    raise ValueError(f"expected the lines {begin!r} and {end!r}, once each and in this order")
  head, rest = text.split(begin)
  return f"{head}{begin}\n\n{body.strip()}\n\n{end}{rest.split(end)[1]}"


def _markers(name):
  return f"<!-- begin {name}: written by a command -->", f"<!-- end {name} -->"


def _empty(name):
  return "\n".join(_markers(name)) + "\n"


def preamble(about: About, outcomes: Sequence[dict]) -> str:
  """Returns the command, the machine and the versions."""
  versions = {k: v for o in outcomes for f in o.values() for k, v in f.versions.items()}
  listed = ", ".join(f"{k} {v}" for k, v in versions.items())
  flags = f' PEERS_FLAGS="{about.flags}"' if about.flags else ""
  threads = "thread" if about.threads == 1 else "threads"
  busy = (
    f" The machine was not idle: its load average was {about.load:.1f} at the start."
    if about.load > _IDLE
    else ""
  )
  return (
    f"`make bench-peers{flags}`, {about.machine}, {about.threads} {threads} each, medians of "
    f"{about.rounds} interleaved rounds.{busy} {listed}."
  )


def markdown(about: About, outcomes: Sequence[Outcome]) -> str:
  """Returns the section, with the machine and each problem's tables."""
  parts = [preamble(about, outcomes)]
  for outcome in outcomes:
    images = f"; {about.images}" if outcome.network != "mlp" else ""
    parts += [
      f"### {outcome.setting.title}{images}",
      f"Density run: k = {outcome.setting.draws} draws of m = {outcome.setting.steps} steps.",
      _times(outcome),
      "Relative differences from ours, with float64 on both sides, of the loss, the gradient and a "
      "product with the same vector; the product in float32 against the same package's in float64; "
      f"and L1 distances from our density, for a kernel of width {outcome.sigma:.3g}. What is "
      "in our row is the mean distance of two runs with different start vectors, by the standard "
      f"error. That of tr(H) / n is {outcome.trace[1]:.2g}. PyHessian has our start vectors.",
      _agreement(outcome),
    ]
    name, ratio = outcome.fastest()
    parts.append(
      f"Fastest peer's density run / ours: {ratio:.2f} ({name}); bound: at least "
      f"{outcome.setting.least_ratio:g}."
    )
    parts += [f"Own density run of {n}: `{f.failure}`" for n, f in outcome.items() if f.failure]
  return "\n\n".join(parts)


def _times(outcome):
  rows = []
  for name, figures in outcome.items():
    density = [figures.median("density"), outcome.ratio(name)] if figures.counts else ["-", "-"]
    times = [figures.set_up, figures.median("gradient"), figures.median("product"), *density]
    rows.append([name, *(t if isinstance(t, str) else f"{t:.3g}" for t in times)])
  head = ["", "set-up, s", "gradient, s", "product, s", "density run, s", "time / ours"]
  return table(head, rows)


def _agreement(outcome):
  rows = []
  for name, figures in outcome.items():
    density = [f"{figures.trace:.4g}", f"{figures.distance:.2g}"] if figures.counts else ["-", "-"]
    differences = [*figures.differences.values(), figures.rounding]
    rows.append([name, *(f"{d:.1e}" for d in differences), *density])
  head = ["", "loss", "gradient", "product", "float32", "tr(H) / n", "L1 distance of the density"]
  return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table in Markdown."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
