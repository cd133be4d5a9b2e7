"""Linear regression with a known spectrum, n = 100: a smoke test of every binary.

  python -m tf_hessian.bin.train    --config=configs/synthetic_quadratic.py --workdir=runs/quadratic
  python -m tf_hessian.bin.spectrum --config=configs/synthetic_quadratic.py --workdir=runs/quadratic

Expected: the eigenvalues 1, 2 and 5, and a bulk between 0 and 0.1. A few seconds.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0

  config.model = ml_collections.ConfigDict()
  config.model.name = "mlp"
  config.model.input_shape = (100,)
  config.model.hidden_units = ()
  config.model.num_classes = 1
  config.model.use_bias = False

  config.data = ml_collections.ConfigDict()
  config.data.name = "synthetic"
  config.data.num_examples = 400
  config.data.num_parameters = 100
  config.data.outliers = (1.0, 2.0, 5.0)
  config.data.bulk = 0.1

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "MeanSquaredError"

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 50
  config.train.learning_rate = 0.05
  config.train.momentum = 0.0
  config.train.steps = 24  # 3 epochs
  config.train.checkpoint_steps = (0, 8)
  config.train.log_every = 8

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 128  # the last batch is short
  config.hessian.training = False
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""
  config.hessian.num_shards = 16  # parts of a pass that workers of a cluster are handed

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 4
  config.lanczos.steps = 40
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
