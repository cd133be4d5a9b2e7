"""VGG-11 on CIFAR-10, n = 11,386,250 (paper, section F).

SGD, batch 128, constant learning rate 0.1, label smoothing 0.1; no batch normalization. The paper
states neither the momentum (0 here: with 0.9 it does not train at this learning rate) nor the
number of steps.

  python -m tf_hessian.bin.train    --config=configs/cifar10_vgg11.py --workdir=runs/vgg11
  python -m tf_hessian.bin.spectrum --config=configs/cifar10_vgg11.py --workdir=runs/vgg11

Expected: the paper has 81 % on the validation set, and 83 % with dense_units = 2048. A step
took 1.5 to 2.5 seconds on one core; docs/training.md has a shorter run.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = dict(
    name="vgg11",
    dense_units=256,
    normalization="none",  # or "batch", "population"
  )

  config.data = dict(
    name="cifar10",
    num_examples=0,  # all
    standardization="per_image",  # or "per_channel"
    augment=True,  # while training
  )

  config.loss = dict(name="CategoricalCrossentropy", from_logits=True, label_smoothing=0.1)

  config.train = dict(
    batch_size=128,
    momentum=0.0,
    learning_rate=0.1,
    steps=100_000,
    checkpoint_steps=(0, 20_000, 40_000, 60_000, 80_000),
    test_every=10_000,
    test_examples=10_000,
  )

  config.hessian = dict(
    batch_size=128,
    training=False,  # there is nothing that differs in training
    num_shards=100,  # parts of a pass that workers of a cluster are handed
  )

  config.lanczos = dict(draws=10, steps=90)
  config.density = dict(sigma_squared=1e-5)
  return config
