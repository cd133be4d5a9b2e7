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
_TIMES = ("set_up", "short", "density", "gradient", "product")
LEAST_WITH_SET_UP = 1.0  # of set-up and a run of 3 steps, the fastest peer's / ours
_IDLE = 0.5  # load average up to which a machine counts as such


@dataclasses.dataclass
class Figures:
  """Measurements of one contender.

  Attributes:
    counts: whether its density run is compared.
    versions: dict: package -> version.
    failure: what its own density run fails with, or "".
    seconds: dict: "set_up" (before a density run can begin), "short" (a density run of 3 steps),
      "density", "gradient", "product" -> list of one time a round.
    cpu_seconds: those of its density runs, one a round.
    peak_mib: peaks of its process's memory in these.
    differences: dict: "loss", "gradient", "product" -> relative difference from ours, in float64.
    rounding: relative difference of its product in float32 from that in float64.
    trace: mean of its density, tr(H) / n.
    distance: L1 distance of its density from ours; of ours, the one that is expected of other start
      vectors.
  """

  counts: bool
  versions: dict = dataclasses.field(default_factory=dict)
  failure: str = ""
  seconds: dict = dataclasses.field(default_factory=lambda: {what: [] for what in _TIMES})
  cpu_seconds: list = dataclasses.field(default_factory=list)
  peak_mib: list = dataclasses.field(default_factory=list)
  differences: dict = dataclasses.field(default_factory=dict)
  rounding: float = np.nan
  trace: float = np.nan
  distance: float = np.nan

  def add(self, what: str, answer: dict) -> None:
    """Takes a worker's answer about one of the times."""
    self.seconds[what].append(answer["seconds"])
    if what == "set_up":
      self.versions, self.failure = answer["versions"], answer["failure"]
    elif what == "density":
      self.cpu_seconds.append(answer["cpu_seconds"])
      self.peak_mib.append(answer["peak_mib"])

  def compare_density(self, grid: np.ndarray, values: np.ndarray, ours: np.ndarray) -> None:
    """Takes its density (g,) on a grid, and ours there."""
    total = scipy.integrate.trapezoid(values, grid)
    self.trace = float(scipy.integrate.trapezoid(grid * values, grid) / total)
    self.distance = float(l1_distance(grid, values, ours))

  def median(self, what: str) -> float:
    """Returns the median seconds of what is in `seconds`."""
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

  @property
  def counted(self) -> list[str]:
    """Names of the contenders whose density runs are compared."""
    return [name for name, figures in self.items() if figures.counts]

  def ratio(self, name: str, *whats: str) -> float:
    """Returns the median ratio of a contender's times to ours; of several, of their sum."""
    theirs, ours = (
      np.sum([self[n].seconds[w] for w in whats or ("density",)], axis=0) for n in (name, OURS)
    )
    return float(np.median(theirs / ours))

  def fastest(self, *whats: str) -> tuple[str, float]:
    """Returns (name, time / ours) of the fastest peer."""
    pairs = ((n, self.ratio(n, *whats)) for n in self.counted if n != OURS)
    return min(pairs, key=lambda pair: pair[1])

  def bounded(self) -> list[tuple[str, str, float, float]]:
    """Returns (what, the fastest peer, its time / ours, the least that this may be)."""
    return [
      ("density run", *self.fastest(), self.setting.least_ratio),
      ("3 steps with set-up", *self.fastest("set_up", "short"), LEAST_WITH_SET_UP),
    ]


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
  lines = []
  for what, name, ratio, least in outcome.bounded():
    missed = not ratio >= least
    print(
      f"{outcome.network}: {what}, fastest peer ({name}) / ours: {ratio:.3g} "
      f"(bound: at least {least:g}){': missed' if missed else ''}",
      flush=True,
    )
    if missed:
      lines.append(f"{outcome.network}: {what}: {name} takes {ratio:.3g} of our time")
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
    images = f"; {about.images}" if outcome.network == "resnet32" else ""
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
    parts += [
      f"{what[0].upper()}{what[1:]}, fastest peer ({name}) / ours: {ratio:.2f}; bound: at least "
      f"{least:g}{'' if ratio >= least else ', which is missed'}."
      for what, name, ratio, least in outcome.bounded()
    ]
    parts += [f"Own density run of {n}: `{f.failure}`" for n, f in outcome.items() if f.failure]
  return "\n\n".join(parts)


def _times(outcome):
  rows = []
  for name, figures in outcome.items():
    cells = [figures.median(what) for what in ("set_up", "gradient", "product")]
    if figures.counts:
      cells += [figures.median("density"), outcome.ratio(name)]
      cells += [outcome.ratio(name, "set_up", "short")]
      cells += [float(np.median(figures.cpu_seconds)), f"{np.median(figures.peak_mib):.0f}"]
    else:
      cells += ["-"] * 5
    rows.append([name, *(c if isinstance(c, str) else f"{c:.3g}" for c in cells)])
  head = ["", "set-up, s", "gradient, s", "product, s", "density run, s", "time / ours"]
  head += ["3 steps with set-up, time / ours", "CPU seconds", "peak memory, MiB"]
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
