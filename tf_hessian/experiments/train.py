"""Training of a config's model, as a command does it."""

from __future__ import annotations

import os
from typing import Any

from absl import logging

from tf_hessian.distribute import cluster
from tf_hessian.experiments import experiment
from tf_hessian.experiments.serve import serve
from tf_hessian.training import folder as training_folder
from tf_hessian.training import train as training


def train(
  config: Any,
  workdir: str | os.PathLike,
  /,
  *,
  data_dir: str | None = None,
  download: bool = False,
  strategy: str = "one_device",
  num_devices: int = 0,
  patience: float = 600.0,
) -> dict[str, float] | None:
  """Trains the model of a config into a folder.

  As a task of a cluster it takes part in that.

  Args:
    config: `ml_collections.ConfigDict`; see configs/.
    workdir: folder for model.keras, checkpoints/, train.csv, train.json and config.json; of all
      workers the same. It has to be new or empty, or hold this training; spectra may be there.
    data_dir: folder with TFDS data sets; None for TFDS's own choice.
    download: fetch a data set that isn't there.
    strategy: name of a `distribute.STRATEGIES`; `TF_CONFIG` says which task this is.
    num_devices: number of replicas of "mirrored".
    patience: seconds that the tasks of a cluster wait for each other.

  Returns:
    dict; see `training.train.train`. None in processes other than the chief.

  Raises:
    ValueError: for a bad config, another config's folder, or training that fails.
    OSError: if the data or a checkpoint are missing, the folder can't be written, or (ClusterError)
      other processes of the cluster are gone.
  """
  values = experiment.check(config)
  if "train" not in values:
    raise ValueError("config: missing field 'train', which says how to train")
  if cluster.serves(strategy):
    serve(config=values, patience=patience, deterministic=False)
    return None
  strategies = cluster.make_strategy(strategy, num_devices=num_devices, patience=patience)
  with cluster.released(strategy):
    leads = strategies is None or strategies.extended.should_checkpoint
    identity = training_folder.identity_of(values)
    result = training_folder.finished(workdir, identity, leads=leads)
    if result is not None:  # before the data are read
      logging.info("%s: already trained; delete its model.keras to train again", workdir)
      return result
    experiment.check_model(values)
    setup = experiment.build(config, data_dir=data_dir, download=download)
    setup.check_training()
    return training.train(
      setup.new_model,
      setup.task,
      setup.source,
      setup.config["train"],
      workdir,
      seed=setup.config["seed"],
      identity=identity,
      strategy=strategies,
      patience=patience,
    )
