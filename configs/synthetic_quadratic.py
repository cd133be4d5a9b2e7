"""Linear regression with a known spectrum, n = 100: a smoke test of every binary.

  python -m tf_hessian.bin.train    --config=configs/synthetic_quadratic.py --workdir=runs/quadratic
  python -m tf_hessian.bin.spectrum --config=configs/synthetic_quadratic.py --workdir=runs/quadratic

Expected: the eigenvalues 1, 2 and 5, and a bulk between 0 and 0.1. A few seconds.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0

  config.model = dict(
    name="mlp",
    input_shape=(100,),
    hidden_units=(),
    num_classes=1,
    use_bias=False,
  )

  config.data = dict(
    name="synthetic",
    num_examples=400,
    num_parameters=100,
    outliers=(1.0, 2.0, 5.0),
    bulk=0.1,
  )

  config.loss = dict(name="MeanSquaredError")

  config.train = dict(
    batch_size=50,
    learning_rate=0.05,
    momentum=0.0,
    steps=24,  # 3 epochs
    checkpoint_steps=(0, 8),
    log_every=8,
  )

  config.hessian = dict(
    batch_size=128,  # the last batch is short
    training=False,
  )

  config.lanczos = dict(draws=4, steps=40)
  config.density = dict(sigma_squared=1e-5)
  return config
