"""Batch normalization and outliers, on real CIFAR-10 (section G of the paper).

A narrow ResNet-14 is trained without batch normalization, with it at two rates, and with population
statistics, from several seeds; checkpoints are measured over training.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

from absl import logging
import numpy as np

from tf_hessian import plotting, spectrum
from tf_hessian.experiments import experiment
from tf_hessian.slq import density, eigenpairs
from tf_hessian.studies import drawing, intervals, pieces
from tf_hessian.studies.chapter import Chapter, Table, Verdict, judged, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.gradient_energy import energies_near, radius, share_of_batches
from tf_hessian.studies.normalization import BATCH, POPULATION, SLOW_BATCH, WITHOUT
from tf_hessian.training import checkpoints, record

VARIANTS = (WITHOUT, BATCH, POPULATION, SLOW_BATCH)
SEEDS = tuple(range(intervals.CLAIM_SEEDS))
IMAGES = 256
KERNEL = 0.01  # its sigma in the picture, in the largest eigenvalue
_FLOOR = 1e-7  # of the picture, below a single eigenvalue's peak
TOP = 10
# The top of the spectrum, to an angle of at most about this over the relative gap.
TOLERANCE = 1e-3
CLAIMS = {
  "ratio": "lambda_1 / lambda_10",
  "gradient_share": "energy of the full gradient in the top ten",
  "batch_share": "of mini-batch gradients",
}
# Of the table's columns.
KEYS = (
  "first",
  "tenth",
  "ratio",
  "apart",
  "above_a_tenth",
  "gradient_share",
  "batch_share",
  "smallest",
  "training_loss",
)


def measure(context: Context) -> dict:
  """Measures spectra and gradients over training, for each way of normalising."""
  rows: dict[str, list] = {v.name: [] for v in VARIANTS}
  for seed in SEEDS:
    for variant in VARIANTS:
      rows[variant.name].append(_measure_run(context, variant, seed))
  variants = {name: _over_seeds(runs) for name, runs in rows.items()}
  numbers = {
    "images": IMAGES,
    "seeds": list(SEEDS),
    "variants": variants,
    "kernel": KERNEL,
    "densities": {v.name: _density(context, v) for v in VARIANTS},
  }
  _draw(numbers, context.out)
  return numbers


def _measure_run(context, variant, seed):
  """Trains and measures: dict of steps that learned -> numbers."""
  folder = variant.train(context, seed)
  loss = {row["step"]: row["loss"] for row in record.read(folder)}
  checkpoint = _Measurement(context, variant.config(context, seed), folder, seed)
  result = {}
  for step in checkpoint.steps:
    path = folder / f"measured_{step:08d}.json"
    numbers = pieces.numbers_of(
      path, checkpoint.setting, functools.partial(checkpoint, step), context.costs
    )
    numbers |= checkpoint.gradient_run(step, numbers["largest"])
    numbers["training_loss"] = loss.get(step, numbers["loss"])
    result[max(0, step - variant.zero_steps)] = numbers
  return result


class _Measurement:
  """Measures checkpoints of one training with one operator."""

  def __init__(self, context, config, folder, seed):
    self._context = context
    config.hessian.num_examples = IMAGES
    self._config = config
    self._folder = folder
    self._seed = seed
    self._values = experiment.check(config)
    self.steps = self._values["train"]["checkpoint_steps"]
    sections = {k: self._values[k] for k in ("hessian", "lanczos")}
    self.setting = {"top": TOP, "tolerance": TOLERANCE} | sections

  @functools.cached_property
  def _model(self):
    return checkpoints.load_model(checkpoints.step_path(self._folder, self.steps[0]))

  @functools.cached_property
  def _operator(self):  # the data are read only where something is left to measure
    setup = experiment.build(self._config, data_dir=self._context.data_dir)
    return setup.operator(self._model)

  def __call__(self, step):
    """Measures the checkpoint of a step: dict of plain values."""
    logging.info("%s: measuring step %d", self._folder.name, step)
    saved = checkpoints.load_model(checkpoints.step_path(self._folder, step))
    self._model.set_weights(saved.get_weights())
    operator = self._operator
    first_seed = self._seed == SEEDS[0]
    run = self._run(step, draws=self._values["lanczos"]["draws"] if first_seed else 1)
    pairs = eigenpairs.top_eigenpairs(
      operator, TOP, tolerance=TOLERANCE, repeated=False, progress=self._context.progress
    )
    gradient = operator.gradient()
    direction = gradient / np.linalg.norm(gradient)
    shares = (pairs.vectors @ direction) ** 2
    top = float(pairs.values[0])
    above, above_error = run.mass(top / 10)
    mean, stderr = share_of_batches(operator, pairs.vectors)
    if self._runs_from_the_gradient(step):
      self._run(step, draws=1, start="gradient")
    return {
      "loss": operator.loss(),
      "largest": pairs.values.tolist(),
      "smallest": float(run.smallest(1)[0]),
      "residuals": pairs.residuals.tolist(),
      "products": pairs.num_products + sum(map(len, run.diagonals)),
      "status": pairs.status.name,
      "ratio": top / float(pairs.values[-1]),
      "above_a_tenth": above * run.num_parameters,
      "above_a_tenth_stderr": above_error * run.num_parameters,
      "apart": stand_apart(pairs.values),
      "gradient_norm": float(np.linalg.norm(gradient)),
      "gradient_shares": shares.tolist(),
      "gradient_share": float(shares.sum()),
      "batch_share": mean,
      "batch_share_stderr": stderr,
      "num_parameters": run.num_parameters,
    }

  def _runs_from_the_gradient(self, step):
    return self._seed == SEEDS[0] and step == max(self.steps)

  def gradient_run(self, step, values):
    """Reads the full gradient's energy from its own Lanczos run, if any."""
    if not self._runs_from_the_gradient(step):
      return {}
    own = spectrum.load(self._spectrum(step, "gradient") / "spectrum.npz")
    return {
      "gradient_shares_by_lanczos": energies_near(own, values).tolist(),
      "share_by_lanczos": own.mass(values[-1] - radius(values))[0],
    }

  def _spectrum(self, step, start=None):
    name = checkpoints.step_path(self._folder, step).stem
    return self._folder / "spectra" / (name if start is None else f"{name}_{start}")

  def _run(self, step, *, draws, start=None):
    return density.spectral_density(
      self._operator,
      num_draws=draws,
      lanczos_steps=self._values["lanczos"]["steps"],
      seed=self._seed,
      start=start,
      check=step == self.steps[0],
      workdir=self._spectrum(step, start),
      progress=self._context.progress,
      config=self._values,
    )


def stand_apart(values: Sequence[float] | np.ndarray, /) -> int:
  """Counts the largest eigenvalues that stand apart, of ten in descending order.

  The place of the largest ratio of an eigenvalue to the next one, if that is above 1.5; else 0.
  """
  ratios = np.asarray(values[:-1]) / np.asarray(values[1:])
  return int(np.argmax(ratios)) + 1 if ratios.max() > 1.5 else 0


def _over_seeds(runs):
  """Returns dict: step -> name -> values of the seeds, and what is of the first or of all."""
  result = {}
  for step in runs[0]:
    found = [run[step] for run in runs]
    first = found[0]
    keys = ("ratio", "above_a_tenth", "apart", "gradient_share", "batch_share", "training_loss")
    of_gradient = ("gradient_shares", "gradient_shares_by_lanczos", "share_by_lanczos")
    columns = {
      **{k: [f[k] for f in found] for k in keys},
      "first": [f["largest"][0] for f in found],
      "tenth": [f["largest"][-1] for f in found],
      "smallest": [f["smallest"] for f in found],
    }
    result[step] = {
      **{k: [float(x) for x in values] for k, values in columns.items()},
      "largest_residual": max(max(f["residuals"]) / f["largest"][0] for f in found),
      "above_a_tenth_draws": [first["above_a_tenth"], first["above_a_tenth_stderr"]],
      **{k: first[k] for k in of_gradient if k in first},
    }
  return result


def _draw(numbers, folder):
  _draw_over_training(numbers["variants"], folder / "figure_batch_norm.png")
  figure, axes = plotting.new_figure(7.0, 4.2)
  for i, (name, curve) in enumerate(numbers["densities"].items()):
    axes.plot(curve["x"], curve["y"], color=f"C{i}", lw=1.2, label=name)
  axes.set(xlabel="eigenvalue / largest eigenvalue", ylabel="density")
  axes.set_ylim(_FLOOR, 5 * max(max(curve["y"]) for curve in numbers["densities"].values()))
  drawing.plain_log(axes, "y")
  axes.legend(frameon=False, fontsize="small")
  plotting.save_figure(figure, folder / "figure_batch_norm_spectra.png")


def _draw_over_training(variants, path):
  panels = {
    "ratio": "$\\lambda_1 / \\lambda_{10}$",
    "above_a_tenth": "eigenvalues above $\\lambda_1 / 10$",
    "gradient_share": "full gradient in top ten, %",
    "batch_share": "mini-batch gradients in top ten, %",
  }
  figure, axes = plotting.new_figure(10.0, 6.8, nrows=2, ncols=2)
  for ax, (key, label) in zip(axes.flat, panels.items(), strict=True):
    share = "share" in key
    for i, (name, table) in enumerate(variants.items()):
      values = np.array([row[key] for row in table.values()]) * (100 if share else 1)
      places = np.arange(len(table)) + 0.08 * (i - 1.5)
      ax.plot(places, values.mean(axis=1), "-", lw=1.4, color=f"C{i}", label=name)
      ax.plot(places, values, "o", ms=3.5, color=f"C{i}")
    ax.set_xticks(range(len(table)), [f"{int(step):,}" for step in table])
    ax.set(xlabel="steps that learn")
    ax.set_title(label, fontsize="medium")
    if share:
      ax.set_ylim(0, 100)
    else:
      drawing.plain_log(ax, "y")
  figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
  plotting.save_figure(figure, path)


def _density(context, variant):
  """Returns the last density of the first seed, in the largest eigenvalue."""
  folder = variant.folder(context, SEEDS[0])
  last = max(variant.config(context, SEEDS[0]).train.checkpoint_steps)
  path = folder / "spectra" / checkpoints.step_path(folder, last).stem / "spectrum.npz"
  run = spectrum.load(path)
  largest, nodes = float(run.largest(1)[0]), np.concatenate(run.nodes)
  sigma = KERNEL * largest
  grid = np.linspace(max(nodes.min(), -largest) - 4 * sigma, largest + 4 * sigma, drawing.POINTS)
  values = run.density(sigma**2, grid=grid).values
  return {"x": (grid / largest).tolist(), "y": (values * largest).tolist()}


def describe(numbers: dict) -> Chapter:
  """Describes which claims hold at the last checkpoints, with all numbers."""
  variants = numbers["variants"]
  final = {name: table[max(table, key=int)] for name, table in variants.items()}
  verdict = judge(final)
  return Chapter(
    title="Batch normalization and outliers",
    section="the main text",
    claim=prose("""without batch normalization, and with its population statistics, large
      eigenvalues stand apart and the gradient lies in their space; with mini-batch statistics
      neither is so."""),
    found=prose(f"at the end of training {_means(final)}."),
    verdict=verdict,
    reason=_reason(numbers, final),
    pictures={
      "figure_batch_norm.png": "Over training: the largest eigenvalue over the tenth, eigenvalues "
      "above a tenth of the largest, energy of gradients in the ten largest eigenvectors. Points "
      "are seeds, lines their means",
      "figure_batch_norm_spectra.png": prose("""Density at the last step, seed 0, each in its
        largest eigenvalue; what is below minus that is left out"""),
    },
    tables=(_table_of_differences(final), _table(variants), _gradient_table(final)),
  )


def differences(final: dict, /) -> dict[tuple[str, str, str], intervals.Interval]:
  """Compares the variants at their last checkpoints, paired over the seeds.

  Without batch normalization less with it, and population less batch statistics at the same rate.

  Returns:
    dict: (name of the number, variant, the other) -> `Interval` of the difference, or of the factor
    of ratios.
  """
  pairs = ((WITHOUT.name, BATCH.name), (POPULATION.name, SLOW_BATCH.name))
  return {
    (key, variant, other): (intervals.factor if key == "ratio" else intervals.paired)(
      final[variant][key], final[other][key]
    )
    for key in CLAIMS
    for variant, other in pairs
  }


def judge(final: dict, /) -> Verdict:
  """Judges the claims by the numbers of each variant's last checkpoint.

  Each says that a difference of `differences` is above 0, a factor above 1, and holds where its
  whole 95 % interval is. They agree where all hold, differ where one interval is below, and are
  open else, as with too few seeds.
  """
  found = differences(final)
  nothing = {key: int(key[0] == "ratio") for key in found}
  return judged(
    all(test.low > nothing[key] for key, test in found.items()),
    any(test.high < nothing[key] for key, test in found.items()),
    enough=len(final[BATCH.name]["ratio"]) >= intervals.CLAIM_SEEDS,
  )


def _means(final):
  """Returns the claims' means over seeds, of each variant."""
  parts = []
  for key, text in CLAIMS.items():
    means = (f"{number(float(np.mean(row[key])))} {name}" for name, row in final.items())
    parts.append(f"{text}: {', '.join(means)}")
  return "; ".join(parts)


def _reason(numbers, final):
  """Says how the trainings differ, and what they are measured on."""
  losses = ", ".join(
    f"{number(float(np.mean(row['training_loss'])))} {name}" for name, row in final.items()
  )
  return prose(f"""A narrow network and {len(numbers["seeds"])} short trainings of each kind: at the
    learning rate {BATCH.learning_rate}, and with population statistics at
    {POPULATION.learning_rate}, after {POPULATION.zero_steps} steps at rate 0, as section G asks;
    these are compared with batch statistics that are trained so too. The verdict is on differences:
    less of it is left with batch statistics, not nothing. Still the losses differ ({losses}), and
    the swap of statistics at the same weights, above, is the better test. The Hessian with batch
    statistics is that of the mini-batch loss, batches of 128. All seeds are measured on the same
    first {numbers["images"]} images.""")


def _table_of_differences(final):
  rows = [
    (
      CLAIMS[key],
      f"{variant} {'over' if key == 'ratio' else 'less'} {other}",
      test.text(),
      intervals.p_text(test.p),
    )
    for (key, variant, other), test in differences(final).items()
  ]
  seeds = len(final[BATCH.name]["ratio"])
  return Table(
    ("", "", "mean (95 % interval)", ""),
    tuple(rows),
    prose(f"""Differences, of lambda_1 / lambda_10 factors, paired over {seeds} seeds: {seeds - 1}
      degrees of freedom"""),
  )


def _table(variants):
  columns = (
    "normalization",
    "step",
    "lambda_1",
    "lambda_10",
    "ratio",
    "stand apart",
    "above lambda_1 / 10",
    "full gradient in top 10, %",
    "mini-batch gradients, %",
    "smallest",
    "training loss",
  )
  rows = []
  for name, table in variants.items():
    for step, row in table.items():
      means = {k: float(np.mean(row[k])) for k in KEYS}
      cells = (number(x * (100 if "share" in k else 1)) for k, x in means.items())
      rows.append((name, f"{int(step):,}", *cells))
  return Table(
    columns,
    tuple(rows),
    prose("""Means over seeds, whose values are in the JSON file; the step counts those that learn.
      Stand apart: how many of the ten largest are above the largest gap, a ratio of 1.5 or more; 0
      without such a gap. Above lambda_1 / 10: number of eigenvalues, by the density."""),
  )


def _gradient_table(final):
  """Compares two measurements of the full gradient's energy, of seed 0."""
  rows = []
  for name, row in final.items():
    projected = np.array(row["gradient_shares"])
    lanczos = np.array(row["gradient_shares_by_lanczos"])
    rows.append(
      (
        name,
        number(100 * projected.sum()),
        number(100 * row["share_by_lanczos"]),
        number(100 * float(np.abs(projected - lanczos).max()), 2),
      )
    )
  return Table(
    (
      "normalization",
      "projections on ten Ritz vectors, %",
      "Lanczos from the gradient, above lambda_10, %",
      "largest difference of one of the ten shares, %",
    ),
    tuple(rows),
    prose("""The full gradient's energy in the top ten, at the last step, seed 0, measured in two
      ways. Where eigenvalues lie close together, the gradient's run of 40 steps has not told all of
      them apart."""),
  )
