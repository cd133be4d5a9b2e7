"""Theorem E.1 on a real network: the stationary end of SGD at a constant rate."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import keras
from ml_collections import ConfigDict
import numpy as np
import tensorflow as tf

from tf_hessian import plotting
from tf_hessian.experiments import experiment
from tf_hessian.slq import eigenpairs
from tf_hessian.studies import intervals, pieces
from tf_hessian.studies.chapter import Chapter, Table, Verdict, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import trained
from tf_hessian.training import checkpoints

SEEDS = tuple(range(intervals.CLAIM_SEEDS))
TOP = 10
MARGIN = 1.1  # a mean ratio of measured to predicted between 1 / this and this agrees


@dataclasses.dataclass(frozen=True)
class Chains:
  """A network, and chains of SGD at its end.

  Attributes:
    name: of its folder.
    config: function (context, seed) -> config of its training, at a constant rate.
    sizes: of the batches.
    settling: steps at a batch size before its point is taken, as the mean of the second half.
    steps: that are measured.
    parts: of these, after each of which the noise is measured.
  """

  name: str
  config: Callable[[Context, int], ConfigDict]
  sizes: tuple[int, ...]
  settling: int = 1000
  steps: int = 3000
  parts: int = 100


def _small_model(context, seed):
  return context.config("mnist_mlp", seed=seed)  # which has a finite minimum


SMALL = Chains("stationary", _small_model, (8, 128, 1024))


def measure(context: Context) -> dict:
  """Measures steps of SGD along the top eigenvectors, for each seed."""
  return measure_chains(context, SMALL)


def measure_chains(context: Context, chains: Chains, /) -> dict:
  """Measures the steps of a network's chains, and draws them."""
  found = {str(s): [_piece(context, chains, seed, s) for seed in SEEDS] for s in chains.sizes}
  names = next(iter(found.values()))[0]
  numbers = {
    "rate": chains.config(context, SEEDS[0]).train.learning_rate,
    "settling": chains.settling,
    "steps": chains.steps,
    "parts": chains.parts,
    "sizes": {size: {k: [row[k] for row in rows] for k in names} for size, rows in found.items()},
  }
  _draw(numbers, context.out / f"figure_{chains.name}.png")
  return numbers


def _piece(context, chains, seed, size):
  """Measures one network at one batch size, or reads that."""
  config = chains.config(context, seed)
  folder = trained(context, config, context.work / chains.name / f"seed_{seed}")
  lengths = {name: getattr(chains, name) for name in ("settling", "steps", "parts")}
  setting = {"top": TOP, "size": size, "config": experiment.check(config)} | lengths

  def measured():
    setup = experiment.build(config, data_dir=context.data_dir)
    model = checkpoints.load_model(folder / "model.keras")
    return stationary(setup, model, size, config.train.learning_rate, seed, **lengths)

  return pieces.numbers_of(folder / f"steps_of_{size}.json", setting, measured, context.costs)


def stationary(
  setup: experiment.Experiment,
  model: keras.Model,
  size: int,
  rate: float,
  seed: int,
  *,
  settling: int,
  steps: int,
  parts: int,
) -> dict:
  """Runs SGD on, and measures its steps at its mean point.

  Args:
    setup: data and loss.
    model: the trained network; it is changed.
    size: examples of a batch, drawn with replacement: the noise of each step is independent.
    rate: constant learning rate.
    seed: of the batches.
    settling: steps before the mean point; see `Chains`.
    steps: that are measured.
    parts: of these.

  Returns:
    dict: eigenvalues; q'Cq of the noise C of a batch's gradient (of which the theorem has H S H);
    mean squared steps along q; the share of a step's energy along all of them; the loss at the
    point; and its gradient's norm.
  """
  x, y = next(iter(setup.source.examples.batch(setup.source.num_examples)))
  losses = _losses(setup, model, x, y)
  run, slopes = _chain(model, losses, len(x), size, rate), _slopes(model, losses, len(x))
  vectors = np.zeros((0, model.count_params()))
  run(settling // 2, (seed, 0), vectors)
  point = run(settling - settling // 2, (seed, 1), vectors)[2]
  end = [w.numpy() for w in model.trainable_variables]
  _assign(model, point)
  operator = setup.operator(model)
  pairs = eigenpairs.top_eigenpairs(operator, TOP, repeated=False, progress=False)

  def noise():
    return slopes(pairs.vectors).var(axis=1) / size

  noise_there = noise()
  loss, norm = operator.loss(), float(np.linalg.norm(operator.gradient()))
  for variable, value in zip(model.trainable_variables, end, strict=True):
    variable.assign(value)
  squares, energies, noises = [], [], []
  for part in range(parts):
    along, energy, _ = run(steps // parts, (seed, 2 + part), pairs.vectors)
    squares.append(np.mean(along**2, axis=0))
    energies.append(energy.mean())
    noises.append(noise())
  measured = np.mean(squares, axis=0)
  return {
    "eigenvalues": pairs.values.tolist(),
    "noise": np.mean(noises, axis=0).tolist(),
    "noise_at_the_point": noise_there.tolist(),
    "measured": measured.tolist(),
    "share": float(measured.sum() / np.mean(energies)),
    "loss": loss,
    "gradient_norm": norm,
  }


def _losses(setup, model, x, y):
  """Returns a function: indices of examples -> their losses."""

  def losses(chosen):
    outputs = model(tf.gather(x, chosen), training=False)
    return setup.task.loss.call(tf.gather(y, chosen), outputs)

  return losses


def _assign(model, point):
  """Sets the trainable variables to a vector."""
  sizes = np.cumsum([int(np.prod(w.shape)) for w in model.trainable_variables])[:-1]
  for variable, value in zip(model.trainable_variables, np.split(point, sizes), strict=True):
    variable.assign(value.reshape(variable.shape))


def _chain(model, losses, count, size, rate) -> Callable:
  """Returns a function that runs steps of SGD.

  Batches are drawn with replacement. It is (steps, seed, vectors) -> steps along the vectors
  (steps, k), squared lengths (steps,), and the mean point.
  """
  variables = [w.value for w in model.trainable_variables]

  def flat(tensors):
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)

  @tf.function
  def run(steps, seed, vectors):
    along = tf.TensorArray(tf.float64, steps)
    energy = tf.TensorArray(tf.float64, steps)
    total = tf.zeros([sum(v.shape.num_elements() for v in variables)], tf.float64)
    for i in tf.range(steps):
      chosen = tf.random.stateless_uniform(
        [size], tf.stack([seed, i]), maxval=count, dtype=tf.int32
      )
      with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses(chosen))
      gradients = tape.gradient(loss, variables)
      step = -rate * tf.cast(flat(gradients), tf.float64)
      along = along.write(i, tf.linalg.matvec(vectors, step))
      energy = energy.write(i, tf.reduce_sum(step**2))
      for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(rate * gradient)
      total += tf.cast(flat(variables), tf.float64)
    return along.stack(), energy.stack(), total / tf.cast(steps, tf.float64)

  def call(steps, seed, vectors):
    number = seed[0] * 1000 + seed[1]  # of the part of the chain
    results = run(tf.constant(steps), tf.constant(number), tf.constant(vectors, tf.float64))
    return tuple(r.numpy() for r in results)

  return call


def _slopes(model, losses, count) -> Callable:
  """Returns a function: vectors (k, n) -> slopes of each example's loss along them, (k, count)."""
  variables = [w.value for w in model.trainable_variables]
  sizes = [v.shape.num_elements() for v in variables]

  @tf.function
  def along(vector):
    tangents = [
      tf.reshape(part, v.shape) for part, v in zip(tf.split(vector, sizes), variables, strict=True)
    ]
    with tf.autodiff.ForwardAccumulator(variables, tangents) as forward:
      each = losses(tf.range(count))
    return forward.jvp(each)

  def call(vectors):
    return np.array([along(tf.constant(v, variables[0].dtype)) for v in vectors], np.float64)

  return call


def ratios(numbers: dict, size: str, /) -> np.ndarray:
  """Returns measured over predicted mean squared steps, (seeds, eigenvectors)."""
  row = {k: np.array(numbers["sizes"][size][k]) for k in ("eigenvalues", "noise", "measured")}
  eta = numbers["rate"]
  return row["measured"] / (2 * eta**2 / (2 - eta * row["eigenvalues"]) * row["noise"])


def judge(numbers: dict, /) -> tuple[Verdict, dict[str, intervals.Interval]]:
  """Judges the theorem by the mean ratio of measured to predicted steps.

  Returns:
    The verdict: agrees where each batch size's interval is within `MARGIN` of 1, differs where one
    is wholly outside, else open, as with too few seeds; and dict: batch size -> `Interval` of the
    geometric mean ratio.
  """
  found = {}
  for size in numbers["sizes"]:
    each = np.exp(np.log(ratios(numbers, size)).mean(axis=1))
    found[size] = intervals.factor(each.tolist(), [1.0] * len(each))
  verdict = Verdict.OPEN
  if len(each) >= intervals.CLAIM_SEEDS:
    if all(f.low >= 1 / MARGIN and f.high <= MARGIN for f in found.values()):
      verdict = Verdict.AGREES
    elif any(f.low > MARGIN or f.high < 1 / MARGIN for f in found.values()):
      verdict = Verdict.DIFFERS
  return verdict, found


def describe(numbers: dict) -> Chapter:
  """Describes measured steps beside those of the theorem, at each batch size."""
  return describe_chains(
    numbers,
    title="Theorem E.1 on a trained network",
    network=f"the small model, trained at the rate {number(numbers['rate'])} to its end",
    picture="figure_stationary.png",
  )


def describe_chains(
  numbers: dict, /, *, title: str, network: str, picture: str, more: str = ""
) -> Chapter:
  """Describes the chains of one network.

  Args:
    numbers: of `measure_chains`.
    title: of the chapter.
    network: in words, after "on".
    picture: its file.
    more: sentences after the reason.
  """
  verdict, found = judge(numbers)
  texts = [f"{f.text()} in batches of {int(size):,}" for size, f in found.items()]
  first = [numbers["rate"] * max(v) for r in numbers["sizes"].values() for v in r["eigenvalues"]]
  seeds = len(next(iter(numbers["sizes"].values()))["share"])
  return Chapter(
    title=title,
    section="",
    claim=prose("""the mean squared step along an eigenvector, which Theorem E.1 (section E) has for
      a quadratic loss and eta lambda_1 below 1, 2 eta² lambda² / (2 - eta lambda) q'Sq, is that of
      a trained network at the stationary end of SGD too."""),
    found=prose(f"""on {network}, measured over predicted steps along the {TOP} top eigenvectors
      are {"; ".join(texts)}."""),
    verdict=verdict,
    reason=prose(f"""Geometric mean over the eigenvectors and 95 % t-interval over {seeds} seeds of
      network, {seeds - 1} degrees of freedom; it agrees if the interval is within {MARGIN:g} of 1.
      The test can fail: without the factor 2 / (2 - eta lambda), up to
      {number(2 / (2 - max(first)))} here, the ratios would be those of the last column; eta
      lambda_1 is {number(min(first))} to {number(max(first))}. Each chain first makes
      {numbers["settling"]:,} steps at its batch size; the mean point is the mean of their second
      half, and eigenpairs are those at it. The column before the last has what the gradient there
      would add to each squared step; a stationary chain has none. The noise lambda² q'Sq is the
      variance of single examples' slopes along q over the batch size, averaged over
      {numbers["parts"]} places of the chain: at the mean point alone it is {_noise_there(numbers)}
      of that. On a quadratic loss, with the noise the same everywhere, that would be 1: above, the
      noise falls along the chain, so that it has not settled; below, it grows away from the mean
      point. Batches are drawn with replacement, so that the noise of the steps is independent, as
      in the theorem; {numbers["steps"]:,} steps of each chain. Larger batches have less noise and
      smaller steps, in proportion; its alignment with the eigenvectors, of which the text says that
      it can enhance or diminish that of the steps, was not changed here, but in the simulation.
      {more}"""),
    pictures={
      picture: prose("""Measured mean squared step over eta² lambda² q'Sq along each
        of the ten top eigenvectors of each seed, and the theorem's curve""")
    },
    tables=(_table(numbers, found),),
  )


def _noise_there(numbers):
  """Returns in words the noise at the mean point over the chain's."""
  parts = []
  for size, row in numbers["sizes"].items():
    ratio = np.mean(np.divide(row["noise_at_the_point"], row["noise"]))
    parts.append(f"{number(float(ratio), 2)} (batches of {int(size):,})")
  return ", ".join(parts)


def _table(numbers, found):
  rows = []
  for size, row in numbers["sizes"].items():
    values, eta = np.array(row["eigenvalues"]), numbers["rate"]
    each = ratios(numbers, size)
    without = np.exp(np.log(each * 2 / (2 - eta * values)).mean(axis=1)).tolist()
    steps, noise = (np.mean(np.sum(row[k], axis=1)) for k in ("measured", "noise"))
    drift = np.mean(np.square(eta * np.array(row["gradient_norm"]))) / steps
    rows.append(
      (
        f"{int(size):,}",
        found[size].text(),
        f"{number(each.mean(axis=0).min())} to {number(each.mean(axis=0).max())}",
        number(float(noise)),
        number(float(steps)),
        intervals.mean(row["share"]).text(scale=100),
        number(100 * float(drift), 2),
        intervals.factor(without, [1.0] * len(without)).text(),
      )
    )
  columns = ("batch size", "measured / predicted", "by eigenvector, means of the seeds")
  rest = (
    "noise in the top ten",
    "squared step there",
    "its share of the step, %",
    "drift, %",
  )
  return Table((*columns, *rest, "ratio without the factor"), tuple(rows))


def _draw(numbers, path):
  figure, axes = plotting.new_figure()
  eta = numbers["rate"]
  for i, (size, row) in enumerate(numbers["sizes"].items()):
    values = eta * np.array(row["eigenvalues"])
    heights = ratios(numbers, size) * 2 / (2 - values)
    axes.plot(
      values.ravel(),
      heights.ravel(),
      "o",
      ms=3.5,
      alpha=0.6,
      color=f"C{i}",
      label=f"batches of {int(size):,}",
    )
  x = np.linspace(0, 1.05 * axes.get_xlim()[1], 100)
  axes.plot(x, 2 / (2 - x), "k-", lw=1.2, label="theorem: $2 / (2 - \\eta\\lambda)$")
  axes.axhline(1, color="0.5", lw=0.8, ls="--", label="without memory of earlier steps")
  axes.set(
    xlabel="$\\eta\\lambda$", ylabel="mean squared step / ($\\eta^2$ noise)", ylim=(0.8, None)
  )
  axes.legend(frameon=False, fontsize="small", loc="upper left")
  plotting.save_figure(figure, path)
