"""The same density run by this package and by PyHessian, curvlinops and hessian-eigenthings.

  make bench-peers
  python -m benchmarks.peers --peers_python=.venv-peers/bin/python
  python -m benchmarks.peers --matrix=gauss_newton

Each contender is a process of its own, with the same number of threads; they measure in turn, one
at a time, after it was shown that they have the same network. Of the Hessian, density runs are
compared; of the Gauss-Newton matrix, products, one by one and as ten share a pass. Writes the
sections of "Peers" in docs/benchmarks.md, and ends with exit code 1 if a figure misses its bound.
With its defaults, more than half an hour on 2 cores.
"""

import contextlib
import dataclasses
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ("PyHessian", "curvlinops", "hessian-eigenthings")
# Measured to show what they cost and how wrong they are; not counted.
WRONG = ("curvlinops, nn.BatchNorm2d", "hessian-eigenthings, finite differences")

PYTHON = flags.DEFINE_string(
  "peers_python", str(ROOT / ".venv-peers/bin/python"), "Python of the peers' environment."
)
PROBLEMS = flags.DEFINE_list(
  "problems", ["mlp", "resnet32"], "Which to run; the section then has these only."
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
  if not pathlib.Path(PYTHON.value).exists():
    sys.exit(f"{PYTHON.value} is not there: make it by `make .venv-peers/installed`")
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
    least_ratio=1.0,
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


_SETTINGS = {"mlp": _mlp, "resnet32": _resnet32}


def _threads():
  return THREADS.value or len(os.sched_getaffinity(0))


def _images():
  return "random images" if DATA_DIR.value is None else "CIFAR-10"


def _changed_flags():
  """Returns the flags that change what is measured and are not at their defaults."""
  found = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  unsaid = (PYTHON.name, OUTPUT.name, DATA_DIR.name)
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
    }
    python = sys.executable if name == OURS else PYTHON.value
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
  # Without batch norm its two implementations are the same.
  wrong = [
    n
    for n in WRONG
    if n.split(",")[0] in CHOSEN.value and (problem.network != "mlp" or "BatchNorm" not in n)
  ]
  outcome = report.Outcome(problem.network, setting)
  with contextlib.ExitStack() as stack:
    contenders = []
    for contender in _start((OURS, *CHOSEN.value, *wrong), "hessian", path, folder, stack):
      name, answer = contender.name, contender.ask("set_up", draws=setting.draws)
      outcome.add(name, counts=name not in wrong, **answer)
      contenders.append(contender)
    _agree(contenders, outcome, folder)
    _measure(contenders, outcome, folder)
  return outcome


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


def _agree(contenders, outcome, folder):
  """Compares losses, gradients and products with ours, in float64."""
  ours = None
  for contender in contenders:
    contender.ask("agree", file="agree.npz")
    with np.load(folder / "agree.npz") as saved:
      values = dict(saved)
    ours = ours or values
    figures = outcome[contender.name]
    figures.differences = {
      key: _relative(values[key], ours[key]) for key in ("loss", "gradient", "product")
    }
    figures.rounding = _relative(values["float32_product"], values["product"])
    report.print_differences(outcome, contender.name)
  unequal = report.unequal_networks(outcome)
  if unequal:
    sys.exit("the networks are not equal: " + "; ".join(unequal))


def _relative(value, expected):
  return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def _measure(contenders, outcome, folder):
  """Takes the times, and compares the densities of the first round."""
  setting = outcome.setting
  run = {"draws": setting.draws, "steps": setting.steps}
  # Another run of ours gives the ends of the spectrum. Its curve is not used.
  before = run | {"sigma": 1.0, "seed": ROUNDS.value, "low": 0.0, "high": 0.0}
  contenders[0].ask("density", file="before.npz", **before)
  reference = spectrum_lib.load(folder / "spectrum_before.npz")
  nodes = np.concatenate(reference.nodes)
  run["sigma"] = setting.sigma or float(np.ptp(nodes)) / setting.steps
  run |= {"low": float(nodes.min()), "high": float(nodes.max())}
  for i in range(ROUNDS.value):
    for what in ("gradient", "product"):
      for contender in contenders:
        seconds = contender.ask(what, repeats=setting.repeats)["seconds"]
        outcome[contender.name].seconds[what].append(seconds)
    for contender in contenders:
      if not outcome[contender.name].counts:
        continue
      answer = contender.ask("density", file=f"{contender.name}.npz", seed=i, **run)
      outcome[contender.name].seconds["density"].append(answer["seconds"])
      print(f"  round {i + 1}: {contender.name:20} {answer['seconds']:9.3f} s", flush=True)
    if i == 0:
      _compare_densities(outcome, folder, run["sigma"])


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
