"""A spectrum of your own model on your own data; docs/own_model.md.

  python -m tf_hessian.bin.spectrum --config=configs/own_model.py --workdir=runs/own \
    --config.model.path=model.keras --config.data.function=path/to/data.py:examples

The function returns single examples (input, target[, sample weight]) in a fixed order: a
`tf.data.Dataset`, a tuple of arrays, or a generator.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # start vectors, and what random layers draw

  config.model = ml_collections.ConfigDict()
  config.model.name = "keras_file"
  config.model.path = "model.keras"

  config.data = ml_collections.ConfigDict()
  config.data.name = "function"
  config.data.function = "data.py:examples"
  config.data.num_examples = 0  # all; of data without an end, the first so many

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "CategoricalCrossentropy"  # or another class of keras.losses
  config.loss.from_logits = True

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 128
  config.hessian.num_examples = 0  # all
  config.hessian.filter_normalization = False
  config.hessian.training = False  # True: batch statistics, and dropout with fixed seeds
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""  # a name pattern, such as "dense_1/*"; empty for all
  config.hessian.num_shards = 16

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10
  config.lanczos.steps = 90
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
