"""The small model of section B of the paper after 100 steps, with a spectrum like the paper's.

The paper says that its bulk lies from -0.2 to 0.4 and its outliers from 0.4 to 10, and does not say
how it was trained. Plain SGD without label smoothing (section F has that on CIFAR-10 only), stopped
after 100 steps, has a spectrum of this range.

  python -m tf_hessian.bin.train    --config=configs/mnist_mlp_early.py --workdir=runs/mnist_early
  python -m tf_hessian.bin.spectrum --config=configs/mnist_mlp_early.py --workdir=runs/mnist_early

Expected: see docs/reproduction.md, Figures 1, 15 and 16. Seconds on 2 cores.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, start vectors

  config.model = dict(name="mlp", input_shape=(784,), hidden_units=(20,), num_classes=10)
  config.data = dict(name="mnist", num_examples=1000)
  config.loss = dict(name="CategoricalCrossentropy", from_logits=True)

  config.train = dict(
    batch_size=100,
    learning_rate=0.1,
    momentum=0.0,
    steps=100,
    log_every=10,
  )

  config.hessian = dict(batch_size=250, training=False)

  config.lanczos = dict(
    draws=10,  # paper
    steps=90,  # paper
  )

  config.density = dict(
    sigma_squared=1e-5,  # paper
  )
  return config
