"""ResNet-32 of the paper's width, trained and measured (sections F and G)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from tf_hessian import plotting
from tf_hessian.curvature.operator import CurvatureOperator
from tf_hessian.experiments import experiment
from tf_hessian.slq import density
from tf_hessian.studies import drawing, pieces
from tf_hessian.studies.chapter import Chapter, Table, Verdict, claims, number, prose, with_error
from tf_hessian.studies.context import Context
from tf_hessian.studies.gradient_energy import of_top_space
from tf_hessian.studies.normalization import SETTLING, end, settle, trained
from tf_hessian.training import checkpoints, record

CONFIG = "cifar10_resnet32"
STEPS = 5000  # of the paper's 100,000: decays and checkpoints are scaled with them
BATCH, WITHOUT = "batch", "none"  # normalization
RATES = {BATCH: 0.1, WITHOUT: 0.01}
MEASURED = (0.2, 0.6, 1.0)  # parts of the steps at which checkpoints are measured
IMAGES = 256
BATCH_SIZE = 128
OTHER_IMAGES = (128,)  # how much a subset changes, in batches of the same size
DENSITY_IMAGES = 128
DRAWS = {BATCH: 10, WITHOUT: 1}  # of which several give standard errors
LANCZOS_STEPS = 60
TOP = 10
TOLERANCE = 1e-3  # of the ten pairs, as in the study of batch normalization
KERNEL = 0.01  # its sigma, in the largest eigenvalue: so wide that pictures show every peak


@dataclasses.dataclass(frozen=True)
class _Way:
  """One way of normalizing: its training, and operators at its checkpoints."""

  context: Context
  normalization: str

  def config(self, images: int = IMAGES, *, population: bool = False) -> ConfigDict:
    """Returns the config of the training and of a measurement."""
    return self.context.config(
      CONFIG,
      schedule_scale=STEPS / 100_000,
      model={"normalization": self.normalization},
      train={"learning_rate": RATES[self.normalization], "test_every": 0}
      | ({} if self.normalization == BATCH else {"schedule": "constant"}),
      hessian={
        "training": self.normalization == BATCH and not population,
        "num_examples": images,
        "batch_size": BATCH_SIZE,
        "num_shards": 1,
      },
    )

  @property
  def folder(self) -> pathlib.Path:
    """Folder of the training and of its measurements."""
    return self.context.work / "resnet32" / self.normalization

  def train(self) -> dict:
    """Trains where that is left to do; returns curve and accuracy."""
    rows = record.read(trained(self.context, self.config(), self.folder))
    return {
      "steps": [r["step"] for r in rows],
      "loss": [r["loss"] for r in rows],
      "test_accuracy": end(self.config(), self.folder)["test_accuracy"],
    }

  def piece(self, name: str, step: int, config: ConfigDict, measure, **setting) -> dict:
    """Measures a checkpoint by a function of its operator, or reads that."""
    setting |= {"step": step, "config": experiment.check(config)}

    def measured():
      logging.info("resnet32: %s, step %d, %s", self.normalization, step, name)
      return measure(self._operator(config, step))

    path = self.folder / f"{name}_step_{step}.json"
    return pieces.numbers_of(path, setting, measured, self.context.costs)

  def _operator(self, config, step) -> CurvatureOperator:
    setup = experiment.build(config, data_dir=self.context.data_dir)
    model = checkpoints.load_model(checkpoints.step_path(self.folder, step))
    if self.normalization == BATCH and not config.hessian.training:
      settle(model, setup)
    return setup.operator(model)

  def top(self, step: int, images: int = IMAGES, *, population: bool = False) -> dict:
    """Measures the ten largest eigenvalues, and gradients in their space."""
    measure = functools.partial(_top, progress=self.context.progress)
    name = f"top_{'population_' if population else ''}{images}"
    config = self.config(images, population=population)
    setting = {"top": TOP, "tolerance": TOLERANCE, "settling": SETTLING if population else 0}
    return self.piece(name, step, config, measure, **setting)

  def density(self, step: int) -> dict:
    """Measures a density."""
    draws = DRAWS[self.normalization]
    name = f"density_{DENSITY_IMAGES}_{draws}"
    config = self.config(DENSITY_IMAGES)
    workdir = self.folder / "spectra" / f"{name}_step_{step}"

    def measure(operator):
      return _curves(
        density.spectral_density(
          operator,
          num_draws=draws,
          lanczos_steps=LANCZOS_STEPS,
          workdir=workdir,
          progress=self.context.progress,
        )
      )

    setting = {"draws": draws, "lanczos_steps": LANCZOS_STEPS, "kernel": KERNEL}
    return self.piece(name, step, config, measure, **setting)


def _top(operator, *, progress):
  return of_top_space(operator, TOP, TOLERANCE, progress=progress)


def _curves(run):
  """Returns plain and, of several draws, deflated densities as plain values."""
  found = {
    "smallest": float(run.smallest(1)[0]),
    "largest": run.largest(TOP).tolist(),
    "trace": list(run.trace()),
    "num_parameters": run.num_parameters,
    "plain": _curve(run),
  }
  if run.num_draws > 1:
    known = run.deflated().eigenvalues
    tenth = found["largest"][0] / 10
    found["known"] = known.tolist()
    found["above_a_tenth"] = [run.num_parameters * float(x) for x in run.mass(tenth)]
    found["deflated"] = _curve(run, deflate=True)
  return found


def _curve(run, **options):
  """Returns a density at the points of a picture, and its error."""
  nodes = np.concatenate(run.nodes)
  sigma = KERNEL * nodes.max()
  grid = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, drawing.POINTS)
  found = run.density(sigma**2, grid=grid, **options)
  return {"grid": grid.tolist(), "values": found.values.tolist(), "stderr": found.stderr.tolist()}


def measure(context: Context) -> dict:
  """Trains ResNet-32 with and without normalization, and measures both."""
  ways = {name: _Way(context, name) for name in RATES}
  trainings = {name: way.train() for name, way in ways.items()}
  steps = [round(STEPS * part) for part in MEASURED]
  batch = ways[BATCH]
  numbers = {
    "steps": STEPS,
    "images": IMAGES,
    "trainings": trainings,
    "top": {name: {str(s): way.top(s) for s in steps} for name, way in ways.items()},
    "population": {str(s): batch.top(s, population=True) for s in steps},
    "subsets": {str(images): batch.top(STEPS, images) for images in OTHER_IMAGES},
    "densities": {name: ways[name].density(STEPS) for name in (WITHOUT, BATCH)},
    "density_images": DENSITY_IMAGES,
    "lanczos_steps": LANCZOS_STEPS,
    "kernel": KERNEL,
    "batch_size": BATCH_SIZE,
    "settling": SETTLING,
    "rates": RATES,
  }
  _draw(numbers, context.out)
  return numbers


def judge(numbers: dict, /) -> list[tuple[str, str, Verdict]]:
  """Compares both ways where their losses are nearest.

  One network of a kind is no evidence by the rules of the page, so all is left open.

  Returns:
    List of (claim, finding, verdict).
  """
  without, batch = at_equal_loss(numbers)
  last = str(max(map(int, numbers["population"])))
  population, own = numbers["population"][last], numbers["top"][BATCH][last]
  accuracy = {k: 100 * of["test_accuracy"] for k, of in numbers["trainings"].items()}
  found = [
    (
      "92 % accuracy with batch normalization and augmentation",
      f"{number(accuracy[BATCH])} %; without normalization {number(accuracy[WITHOUT])} %",
    ),
    (
      "without normalization large eigenvalues stand apart, and hold the gradient",
      prose(f"""without it at step {without["step"]:,} and the loss {number(without["loss"])}:
        {_of(without)}; with it, batch statistics, at step {batch["step"]:,} and the loss
        {number(batch["loss"])}: {_of(batch)}"""),
    ),
    (
      "with population statistics too",
      prose(f"""at the end, with population statistics: {_of(population)}; with batch statistics:
        {_of(own)}"""),
    ),
  ]
  return [(claim, here, Verdict.OPEN) for claim, here in found]


def at_equal_loss(numbers: dict, /) -> tuple[dict, dict]:
  """Returns the rows of both ways whose losses are the nearest."""
  rows = {k: [row | {"step": int(s)} for s, row in of.items()] for k, of in numbers["top"].items()}
  pairs = itertools.product(rows[WITHOUT], rows[BATCH])
  return min(pairs, key=lambda pair: abs(pair[0]["loss"] - pair[1]["loss"]))


def _of(row):
  return prose(f"""lambda_1 / lambda_10 = {number(row["ratio"])},
    {number(100 * row["gradient_share"])} % of the full gradient's energy in the top ten, of
    mini-batches' {number(100 * row["batch_share"])} %""")


def describe(numbers: dict) -> Chapter:
  """Describes the network's training, its spectra, and what images change."""
  rows = judge(numbers)
  draws, rates = numbers["densities"][BATCH], numbers["rates"]
  above, error = draws["above_a_tenth"]
  return Chapter(
    title="ResNet-32 of the paper's width",
    section="F and the main text",
    claim=prose("""a ResNet-32 attains 92 % on CIFAR-10; without batch normalization, and with its
      population statistics, large eigenvalues stand apart and the gradient lies in their space;
      with mini-batch statistics neither is so."""),
    found=prose(f"""{"; ".join(f"{claim}: {found}" for claim, found, _ in rows)}. With batch
      statistics the trained network has {with_error(above, error)} eigenvalues above a tenth of the
      largest, and the trace {with_error(*draws["trace"])} (± a standard error of the draws,
      {numbers["density_images"]} images)."""),
    verdict=Verdict.OPEN,
    reason=prose(f"""One network of each kind, trained for {numbers["steps"]:,} steps, where the
      paper's last decay is at 80,000, on augmented images; with batch normalization at the rate
      {rates[BATCH]}, which decays at about the same parts of the training, without at
      {rates[WITHOUT]}, which does not. So
      accuracies are no test of the paper's, and differences are those of one pair of networks,
      without intervals over seeds: the narrow networks above have those. Population statistics are
      means over {numbers["settling"]} batches at the checkpoint's weights. Ten pairs are of the
      first {numbers["images"]} images in batches of {numbers["batch_size"]}; how much the images
      matter is in the third table. Densities are of {numbers["density_images"]} images, by draws of
      {numbers["lanczos_steps"]} steps, with a sigma of {numbers["kernel"]:g} of the largest
      eigenvalue, so that the picture's points show every peak. {len(draws["known"])} eigenvalues
      are known in all draws, and weigh 1 / n in the deflated density."""),
    pictures={
      "figure_resnet32.png": prose("""Loss of training, and the largest eigenvalue over the tenth at
        the checkpoints"""),
      "figure_resnet32_density.png": prose("""Left: density at the end with batch
        normalization, and without, where the loss is higher. Right: the former with its standard
        error, and deflated"""),
    },
    tables=(claims(rows), _table(numbers), _subsets(numbers)),
  )


def _cells(row):
  return (
    *(number(row[k]) for k in ("first", "ratio")),
    *(number(100 * row[k]) for k in ("gradient_share", "batch_share")),
    number(row["loss"]),
  )


_COLUMNS = (
  "lambda_1",
  "lambda_1 / lambda_10",
  "full gradient in top 10, %",
  "mini-batch gradients, %",
  "loss",
)


def _table(numbers):
  kinds = {
    "without": numbers["top"][WITHOUT],
    "batch statistics": numbers["top"][BATCH],
    "population statistics, the same weights": numbers["population"],
  }
  rows = [
    (name, f"{int(step):,}", *_cells(row)) for name, of in kinds.items() for step, row in of.items()
  ]
  return Table(("normalization", "step", *_COLUMNS), tuple(rows))


def _subsets(numbers):
  last = str(max(map(int, numbers["top"][BATCH])))
  found = {numbers["images"]: numbers["top"][BATCH][last]}
  found |= {int(images): row for images, row in numbers["subsets"].items()}
  return Table(
    ("images", *_COLUMNS),
    tuple((f"{images:,}", *_cells(found[images])) for images in sorted(found)),
    "How much the number of images changes: batch statistics, at the end",
  )


def _draw(numbers, folder):
  figure, (left, right) = plotting.new_figure(10.0, 3.8, ncols=2)
  for i, name in enumerate(RATES):
    curve = numbers["trainings"][name]
    left.plot(curve["steps"], curve["loss"], color=f"C{i}", label=_LABELS[name])
  kinds = {_LABELS[k]: of for k, of in numbers["top"].items()}
  for i, (label, of) in enumerate(
    (kinds | {"population statistics": numbers["population"]}).items()
  ):
    ratios = [row["ratio"] for row in of.values()]
    right.plot([int(s) for s in of], ratios, "o-", ms=4, color=f"C{i}", label=label)
  left.set(xlabel="steps", ylabel="loss of training")
  right.set(xlabel="steps", ylabel="$\\lambda_1 / \\lambda_{10}$")
  drawing.plain_log(right, "y")
  for axes in (left, right):
    axes.legend(frameon=False, fontsize="small")
  plotting.save_figure(figure, folder / "figure_resnet32.png")
  _draw_densities(numbers, folder / "figure_resnet32_density.png")


def _draw_densities(numbers, path):
  figure, (left, right) = plotting.new_figure(10.0, 3.8, ncols=2)
  for i, name in enumerate(RATES):
    curve, largest = numbers["densities"][name]["plain"], numbers["densities"][name]["largest"][0]
    x, y = np.array(curve["grid"]) / largest, np.array(curve["values"]) * largest
    left.plot(x, y, color=f"C{i}", lw=1.2, label=_LABELS[name])
  plain, deflated = (
    {k: np.array(v) for k, v in numbers["densities"][BATCH][kind].items()}
    for kind in ("plain", "deflated")
  )
  low, high = (plain["values"] + s * plain["stderr"] for s in (-1, 1))
  right.fill_between(plain["grid"], low, high, color="C0", alpha=0.3, lw=0)
  right.plot(plain["grid"], plain["values"], color="C0", lw=1.2, label="plain")
  right.plot(deflated["grid"], deflated["values"], "k--", lw=0.9, label="deflated")
  left.set(xlabel="eigenvalue / largest eigenvalue", ylabel="density")
  right.set(xlabel="eigenvalue", ylabel="density")
  for axes in (left, right):
    top = max(line.get_ydata().max() for line in axes.get_lines())
    axes.set_ylim(_FLOOR, 5 * top)
    drawing.plain_log(axes, "y")
    axes.legend(frameon=False, fontsize="small")
  plotting.save_figure(figure, path)


_FLOOR = 1e-7  # below a single eigenvalue's peak
_LABELS = {BATCH: "batch statistics", WITHOUT: "without normalization"}
