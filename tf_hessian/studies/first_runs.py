"""First Lanczos runs of large networks, and their memory."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
from typing import Any

from absl import logging
import tensorflow as tf

from tf_hessian.distribute import memory
from tf_hessian.experiments import experiment
from tf_hessian.planning.planner import plan
from tf_hessian.slq import density
from tf_hessian.slq.storage import Storage
from tf_hessian.studies import pieces
from tf_hessian.studies.chapter import Chapter, Table, Verdict, number, prose
from tf_hessian.studies.context import Context
from tf_hessian.studies.normalization import end, trained
from tf_hessian.training import checkpoints

HOURS_OF_THE_PAPER = 20 / 90  # a Lanczos step of ResNet-18
MARGIN = 1.2  # of the memory over the plan's


@dataclasses.dataclass(frozen=True)
class Network:
  """One network and what is measured of it.

  Attributes:
    config: name of its config.
    images: that the Hessian is of.
    lanczos_steps: of the draw.
    training_steps: before the run; 0 for the initial weights.
    blocks: recomputed ones, or None.
  """

  config: str
  images: int
  lanczos_steps: int = 20
  training_steps: int = 0
  blocks: int | None = None


NETWORKS = {
  "VGG-11": Network("cifar10_vgg11", 256, training_steps=600),
  "ResNet-18": Network("imagenet_resnet18", 16, lanczos_steps=60),
  "Inception V3": Network("imagenet_inception_v3", 8, blocks=4),
}


def measure(context: Context) -> dict:
  """Runs a few Lanczos steps on each network."""
  return {"networks": {name: _piece(context, name, network) for name, network in NETWORKS.items()}}


def _piece(context, name, network):
  """Measures one network, or reads that."""
  config = context.config(
    network.config,
    hessian={"num_examples": network.images, "batch_size": network.images, "num_shards": 1},
  )
  folder = context.work / "first_runs" / name.lower().replace(",", "").replace(" ", "_")
  accuracy, checkpoint = None, None
  if network.training_steps:
    with config.unlocked():
      config.train.update({"steps": network.training_steps, "checkpoint_steps": ()})
      config.train.update({"test_every": 0, "test_examples": 2000, "log_every": 50})
    trained(context, config, folder)
    accuracy = end(config, folder).get("test_accuracy")
    checkpoint = folder / "model.keras"
  threads = tf.config.threading
  machine = threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads()
  about = {"images": network.images, "training_steps": network.training_steps}
  about |= {"threads": list(machine), "blocks": network.blocks}
  about |= {"lanczos_steps": network.lanczos_steps}
  setting = about | {"config": experiment.check(config)}

  def measured():
    logging.info("first runs: %s", name)
    of_process = network, config, checkpoint, context.data_dir, machine
    return about | {"accuracy": accuracy} | _alone(planned, of_process) | _alone(run, of_process)

  return pieces.numbers_of(folder / "first_run.json", setting, measured, context.costs)


def _alone(function, arguments):
  """Calls a function in a new process, whose memory is its own."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(function, *arguments).result()


def _operator(network, config, checkpoint, data_dir, threads):
  """Returns the operator, in a process that has just begun."""
  tf.config.threading.set_intra_op_parallelism_threads(threads[0])
  tf.config.threading.set_inter_op_parallelism_threads(threads[1])
  setup = experiment.build(config, data_dir=data_dir)
  model = checkpoints.load_model(checkpoint) if checkpoint else setup.new_model()
  return setup.operator(model, recompute_blocks=network.blocks)


def _options(network: Network) -> dict[str, Any]:
  """Returns the arguments of a run that a plan takes too."""
  storage = Storage("memory")
  steps = network.lanczos_steps
  return {"num_draws": 1, "lanczos_steps": steps, "check": False, "storage": storage}


def planned(network: Network, *of_process: Any) -> dict[str, Any]:
  """Plans a run: dict of its bytes and the seconds of a pass."""
  found = plan(_operator(network, *of_process), pilot_seconds=0, **_options(network))
  return {"planned_bytes": found.host_bytes, "pass_seconds": found.pass_seconds}


def run(network: Network, *of_process: Any) -> dict[str, Any]:
  """Makes one draw: dict of its peak in bytes, and of numbers."""
  operator = _operator(network, *of_process)
  found = density.spectral_density(operator, progress=False, **_options(network))
  return {
    "peak_bytes": memory.peak(),
    "parameters": operator.shape[0],
    "loss": operator.loss(),
    "largest": found.largest(3).tolist(),
    "smallest": found.smallest(1).tolist(),
  }


def judge(numbers: dict, /) -> Verdict:
  """Returns whether each run took about the memory planned, or less."""
  rows = numbers["networks"].values()
  fits = all(row["peak_bytes"] <= MARGIN * row["planned_bytes"] for row in rows)
  return Verdict.AGREES if fits else Verdict.DIFFERS


def describe(numbers: dict) -> Chapter:
  """Describes the runs, and their memory beside the plan."""
  rows = numbers["networks"]
  ratio = max(r["peak_bytes"] / r["planned_bytes"] for r in rows.values())
  images = ", ".join(
    f"{name} {row['lanczos_steps']} of {row['images']}" for name, row in rows.items()
  )
  (threads,) = {tuple(row["threads"]) for row in rows.values()}
  return Chapter(
    title="First Lanczos runs of large networks",
    section="",
    claim=prose(f"""the paper's large networks run at full size on a small machine, in at most
      {MARGIN:g} times the memory that their plan says."""),
    found=prose(f"""one draw of each, of as many steps and images as the machine does in minutes
      ({images}); the peak of the memory is at most {number(ratio)} times
      the planned one."""),
    verdict=judge(numbers),
    reason=prose(f"""Each plan and each run has a
      process of its own; operations side by side: {threads[1] or "all"}, threads of each:
      {threads[0] or "all"}. Inception V3 computes the activations of
      {rows["Inception V3"]["blocks"]} blocks again (docs/cluster.md). Images of ImageNet are those
      of a small sample. All but VGG-11 have their initial weights: training them is days of work on
      such a machine, so spectra of the trained networks, and their accuracies (ResNet-18 71.9 %,
      VGG-11 81 %), are open. The curvature of such weights is extreme, most so with the statistics
      of so few images. The seconds are of a machine with other work, and grow with the images: the
      1.28 million of ImageNet would take ResNet-18 {number(_hours(rows), 2)} hours a Lanczos step
      so, by the time of {rows["ResNet-18"]["images"]}; the paper took
      {number(HOURS_OF_THE_PAPER, 2)} on its GPUs."""),
    tables=(_table(rows),),
  )


def _hours(rows):
  """Returns the hours of a Lanczos step of ResNet-18 on ImageNet."""
  row = rows["ResNet-18"]
  return row["pass_seconds"] / row["images"] * 1_281_167 / 3600


def _table(rows):
  columns = (
    "network",
    "parameters",
    "images",
    "Lanczos steps",
    "training",
    "largest Ritz values",
    "smallest",
  )
  rest = ("loss", "s a product", "peak, GB", "planned, GB")
  return Table(
    (*columns, *rest),
    tuple(
      (
        name,
        f"{row['parameters']:,}",
        str(row["images"]),
        str(row["lanczos_steps"]),
        _training(row),
        ", ".join(map(number, row["largest"])),
        number(row["smallest"][0]),
        number(row["loss"]),
        number(row["pass_seconds"]),
        number(row["peak_bytes"] / 1e9),
        number(row["planned_bytes"] / 1e9),
      )
      for name, row in rows.items()
    ),
  )


def _training(row):
  if not row["training_steps"]:
    return "initial weights"
  reached = "" if row["accuracy"] is None else f", test accuracy {number(100 * row['accuracy'])} %"
  return f"{row['training_steps']:,} steps{reached}"
