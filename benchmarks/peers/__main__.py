"""The same density run by this package, PyHessian, curvlinops, hessian-eigenthings and JAX.

  make bench-peers
  python -m benchmarks.peers --peers_python=.venv-peers/bin/python \
    --jax_python=.venv-peers-jax/bin/python
  python -m benchmarks.peers --matrix=gauss_newton

Each contender is a process of its own, with the same number of threads, and begins anew in each
round; they measure in turn, one at a time, after it was shown that they have the same network. Of
the Hessian, density runs are compared; of the Gauss-Newton matrix, products, one by one and as ten
share a pass. Writes the sections of "Peers" in docs/benchmarks.md, and ends with exit code 1 if a
figure misses its bound. With its defaults, more than an hour on 2 cores.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags, logging
import numpy as np

from benchmarks.peers import making, products, products_report, report
from benchmarks.peers.worker import OURS
from tf_hessian import spectrum as spectrum_lib

SHORT_STEPS = 3  # of the runs whose set-up counts
ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ("PyHessian", "curvlinops", "hessian-eigenthings", "JAX, matfree", "JAX, by hand")
# Measured to show what they cost and how wrong they are, on these networks; not counted.
WRONG = {
  "curvlinops, nn.BatchNorm2d": ("resnet32",),
  "curvlinops, nn.LayerNorm": ("transformer",),
  "hessian-eigenthings, finite differences": ("mlp", "resnet32", "transformer"),
}

PYTHON = flags.DEFINE_string(
  "peers_python", str(ROOT / ".venv-peers/bin/python"), "Python of the environment with PyTorch."
)
JAX_PYTHON = flags.DEFINE_string(
  "jax_python", str(ROOT / ".venv-peers-jax/bin/python"), "Python of the environment with JAX."
)
PROBLEMS = flags.DEFINE_list(
  "problems", ["mlp", "resnet32", "transformer"], "Which to run; the section then has these only."
)
MATRICES = flags.DEFINE_multi_enum(
  "matrix",
  ["hessian", "gauss_newton"],
  ["hessian", "gauss_newton"],
  "Which to compare: hessian by density runs, gauss_newton by products.",
)
CHOSEN = flags.DEFINE_multi_enum(
  "peer", list(PEERS), PEERS, "Which to compare with; the section then has these only."
)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements, of which the median counts.", 1)
THREADS = flags.DEFINE_integer("threads", 0, "Threads of each; 0 for as many as cores.", 0)
OUTPUT = flags.DEFINE_string("output", str(ROOT / "docs/benchmarks.md"), "File to write into.")
DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Folder with TFDS's CIFAR-10; without one, ResNet-32 gets random images."
)
BATCHES = flags.DEFINE_integer("resnet_batches", 2, "Batches of ResNet-32.", 1)
BATCH_SIZE = flags.DEFINE_integer("resnet_batch_size", 128, "Images of a batch.", 1)
RESNET_DRAWS = flags.DEFINE_integer("resnet_draws", 10, "Draws on ResNet-32.", 2)
RESNET_STEPS = flags.DEFINE_integer("resnet_steps", 3, "Lanczos steps of each.", 2)
SEQUENCES = flags.DEFINE_integer("transformer_batch_size", 16, "Sequences of a batch.", 1)
TRANSFORMER_BATCHES = flags.DEFINE_integer(
  "transformer_batches", 2, "Batches of the transformer.", 1
)
TRANSFORMER_DRAWS = flags.DEFINE_integer("transformer_draws", 10, "Draws on the transformer.", 2)
TRANSFORMER_STEPS = flags.DEFINE_integer("transformer_steps", 3, "Lanczos steps of each.", 2)
MLP_DRAWS = flags.DEFINE_integer("mlp_draws", 10, "Draws on the small network.", 2)
MLP_STEPS = flags.DEFINE_integer("mlp_steps", 90, "Lanczos steps of each.", 2)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A density run.

  Attributes:
    title: of the problem.
    draws: number k.
    steps: number m.
    sigma: width of the kernel; None for the range of the spectrum / steps.
    repeats: gradients and products in one measurement.
    least_ratio: bound of the fastest peer's time / ours.
  """

  title: str
  draws: int
  steps: int
  sigma: float | None
  repeats: int
  least_ratio: float


def main(_):
  logging.set_verbosity(logging.WARNING)
  for folder, python in ((".venv-peers", PYTHON.value), (".venv-peers-jax", JAX_PYTHON.value)):
    if not pathlib.Path(python).exists():
      sys.exit(f"{python} is not there: make it by `make {folder}/installed`")
  unknown = set(PROBLEMS.value) - set(_SETTINGS)
  if unknown:
    sys.exit(f"--problems: expected some of {', '.join(_SETTINGS)}, got {', '.join(unknown)}")
  about = report.About(
    threads=_threads(),
    rounds=ROUNDS.value,
    machine=report.machine(),
    images=_images(),
    flags=_changed_flags(),
    load=os.getloadavg()[0],
  )
  failures = []
  if "hessian" in MATRICES.value:
    outcomes = _each_problem(compare)
    report.write(OUTPUT.value, about, outcomes)
    failures += [line for o in outcomes for line in report.failures(o)]
  if "gauss_newton" in MATRICES.value:
    outcomes = _each_problem(compare_products)
    for outcome in outcomes:
      products_report.print_figures(outcome)
      failures += products_report.failures(outcome)
    body = products_report.markdown(about, outcomes)
    report.write_section(OUTPUT.value, report.PRODUCTS_SECTION, body)
  if failures:
    sys.exit("failed: " + "; ".join(failures))


def _each_problem(function):
  outcomes = []
  for name in PROBLEMS.value:
    problem, setting = _SETTINGS[name]()
    with tempfile.TemporaryDirectory() as folder:
      outcomes.append(function(problem, setting, pathlib.Path(folder)))
  return outcomes


def _mlp():
  setting = Setting(
    title="784-20-10 on 1,000 digits, n = 15,910, one batch",
    draws=MLP_DRAWS.value,
    steps=MLP_STEPS.value,
    sigma=1e-5**0.5,  # the paper's
    repeats=20,
    least_ratio=1.2,
  )
  return making.make_mlp(), setting


def _resnet32():
  setting = Setting(
    title=f"ResNet-32, n = 464,154, {BATCHES.value} batches of {BATCH_SIZE.value} images",
    draws=RESNET_DRAWS.value,
    steps=RESNET_STEPS.value,
    sigma=None,
    repeats=1,
    least_ratio=2.0,
  )
  return making.make_resnet32(BATCHES.value, BATCH_SIZE.value, DATA_DIR.value), setting


def _transformer():
  setting = Setting(
    title=f"Transformer, n = 1,058,536, {TRANSFORMER_BATCHES.value} batches of {SEQUENCES.value} "
    "sequences of 64 random tokens",
    draws=TRANSFORMER_DRAWS.value,
    steps=TRANSFORMER_STEPS.value,
    sigma=None,
    repeats=1,
    least_ratio=1.5,
  )
  return making.make_transformer(TRANSFORMER_BATCHES.value, SEQUENCES.value), setting


_SETTINGS = {"mlp": _mlp, "resnet32": _resnet32, "transformer": _transformer}


def _threads():
  return THREADS.value or len(os.sched_getaffinity(0))


def _images():
  return "random images" if DATA_DIR.value is None else "CIFAR-10"


def _changed_flags():
  """Returns the flags that change what is measured and are not at their defaults."""
  found = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  unsaid = (PYTHON.name, JAX_PYTHON.name, OUTPUT.name, DATA_DIR.name)
  words = [f.serialize() for f in found if f.value != f.default and f.name not in unsaid]
  return " ".join(" ".join(words).split("\n"))


class Contender:
  """A worker process; see `worker`."""

  def __init__(self, name, matrix, problem_path, folder):
    self.name = name
    self._log = folder / f"{name}.log"
    threads = str(_threads())
    # NumPy's threads go on spinning for a while, and would slow PyTorch's down. Its part of the
    # peers' work is small: vectors of PyHessian's products in our recurrence.
    blas = threads if name == OURS else "1"
    variables = {
      "PYTHONPATH": str(ROOT),
      "PYTHONWARNINGS": "ignore",
      "TF_CPP_MIN_LOG_LEVEL": "3",
      "OMP_NUM_THREADS": threads,
      "MKL_NUM_THREADS": threads,
      "OPENBLAS_NUM_THREADS": blas,
      "NPROC": threads,  # of XLA, for JAX
      "JAX_PLATFORMS": "cpu",
    }
    peers_python = JAX_PYTHON.value if name.startswith("JAX") else PYTHON.value
    python = sys.executable if name == OURS else peers_python
    arguments = [name, matrix, str(problem_path), threads, str(folder)]
    with open(self._log, "wb") as log:
      self._process = subprocess.Popen(
        [python, "-m", "benchmarks.peers.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
      )

  def ask(self, what, **arguments):
    """Sends a request and returns the answer, a dict."""
    try:
      self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      sys.exit(f"{self.name} has ended:\n{self._log.read_text()[-3000:]}")
    return json.loads(line)

  def close(self):
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()


def compare(problem, setting, folder):
  """Returns the `report.Outcome` of one problem."""
  path = folder / "problem.npz"
  problem.save(path)
  wrong = [
    name
    for name, networks in WRONG.items()
    if name.split(",")[0] in CHOSEN.value and problem.network in networks
  ]
  outcome = report.Outcome(problem.network, setting)
  for name in (OURS, *CHOSEN.value, *wrong):
    outcome[name] = report.Figures(counts=name not in wrong)
  start = functools.partial(_started, path=path, folder=folder)
  _agree(start, outcome, folder)
  _measure(start, outcome, folder)
  return outcome


@contextlib.contextmanager
def _started(name, *, path, folder):
  """Gives a contender's process, which ends with the block, so that nothing runs beside others."""
  contender = Contender(name, "hessian", path, folder)
  try:
    yield contender
  finally:
    contender.close()


def compare_products(problem, setting, folder):
  """Returns the `ProductsOutcome` of one problem, of the Gauss-Newton matrix."""
  path, matrix = folder / "problem.npz", "gauss_newton"
  problem.save(path)
  outcome = products_report.ProductsOutcome(problem.network, setting.title, matrix, setting.repeats)
  names = (OURS, *products.names(problem.network, CHOSEN.value))
  with contextlib.ExitStack() as stack:
    contenders = []
    for contender in _start(names, matrix, path, folder, stack):
      answer = contender.ask("set_up", draws=products.VECTORS)
      outcome[contender.name] = products_report.ProductFigures(answer["versions"])
      print(f"{problem.network}: {contender.name} set up in {answer['seconds']:.1f} s", flush=True)
      contenders.append(contender)
    products.compare(outcome, contenders, folder, ROUNDS.value)
  return outcome


def _start(names, matrix, path, folder, stack):
  """Yields contenders, each when the one before is set up, so that nobody is slowed down by it."""
  for name in names:
    contender = Contender(name, matrix, path, folder)
    stack.callback(contender.close)
    yield contender


def _agree(start, outcome, folder):
  """Compares losses, gradients and products with ours, in float64."""
  ours = None
  for name, figures in outcome.items():
    with start(name) as contender:
      contender.ask("agree", file="agree.npz")
    with np.load(folder / "agree.npz") as saved:
      values = dict(saved)
    ours = ours or values
    figures.differences = {
      key: _relative(values[key], ours[key]) for key in ("loss", "gradient", "product")
    }
    figures.rounding = _relative(values["float32_product"], values["product"])
    report.print_differences(outcome, name)
  unequal = report.unequal_networks(outcome)
  if unequal:
    sys.exit("the networks are not equal: " + "; ".join(unequal))


def _relative(value, expected):
  return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def _measure(start, outcome, folder):
  """Takes the times, and compares the densities of the first round."""
  setting = outcome.setting
  run = _reference(start, setting, folder)
  for i in range(ROUNDS.value):
    for name, figures in outcome.items():
      with start(name) as contender:
        _measure_round(contender, figures, setting, run | {"seed": i})
      shown = {what: found[-1] for what, found in figures.seconds.items() if found}
      listed = ", ".join(f"{what} {seconds:.3g} s" for what, seconds in shown.items())
      print(f"  round {i + 1}: {name}: {listed}", flush=True)
    if i == 0:
      _compare_densities(outcome, folder, run["sigma"])


def _reference(start, setting, folder):
  """Returns the arguments of a density run, with the ends of the spectrum by a run of ours."""
  run = {"draws": setting.draws, "steps": setting.steps}
  with start(OURS) as contender:
    contender.ask("set_up", draws=setting.draws)
    # Its curve is not used.
    before = run | {"sigma": 1.0, "seed": ROUNDS.value, "low": 0.0, "high": 0.0}
    contender.ask("density", file="before.npz", **before)
  nodes = np.concatenate(spectrum_lib.load(folder / "spectrum_before.npz").nodes)
  run["sigma"] = setting.sigma or float(np.ptp(nodes)) / setting.steps
  return run | {"low": float(nodes.min()), "high": float(nodes.max())}


def _measure_round(contender, figures, setting, run):
  """Takes all figures of a contender that has just begun.

  A short run first, so that set-up and run are those of somebody who makes that one alone.
  """
  short, name = dict(run), contender.name
  if setting.steps != SHORT_STEPS:  # its curve is not used; so few nodes want a wide kernel
    sigma = (run["high"] - run["low"]) / SHORT_STEPS
    short |= {"steps": SHORT_STEPS, "sigma": sigma}
  set_up = contender.ask("set_up", draws=setting.draws, steps=SHORT_STEPS)
  if figures.counts:
    answer = contender.ask("density", file=f"{name}.npz", **short)
    if set_up["builds_while_running"]:  # so its set-up is what a second run takes less
      first = answer["seconds"]
      answer = contender.ask("density", file=f"{name}.npz", **short)
      set_up["seconds"] += first - answer["seconds"]
    figures.add("short", answer)
  figures.add("set_up", set_up)
  if figures.counts:
    if setting.steps != SHORT_STEPS:
      contender.ask("set_up", draws=setting.draws, steps=setting.steps)
      answer = contender.ask("density", file=f"{name}.npz", **run)
    figures.add("density", answer)
  contender.ask("prepare")
  for what in ("gradient", "product"):
    figures.add(what, contender.ask(what, repeats=setting.repeats))


def _compare_densities(outcome, folder, sigma):
  """Compares each density with ours, and ours with what other start vectors would give."""
  ours = spectrum_lib.load(folder / f"spectrum_{OURS}.npz")
  outcome.sigma = sigma
  outcome.trace = tuple(float(x[0]) for x in ours.moments(1))
  outcome[OURS].trace = outcome.trace[0]
  outcome[OURS].distance = report.expected_distance(ours.density(sigma**2))
  for name in outcome.counted:
    if name != OURS:
      with np.load(folder / f"{name}.npz") as saved:
        grid, values = saved["grid"], saved["values"]
      outcome[name].compare_density(grid, values, ours.density(sigma**2, grid=grid).values)


if __name__ == "__main__":
  app.run(main)
