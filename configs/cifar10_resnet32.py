"""ResNet-32 on CIFAR-10, n = 464,154 (paper, section F).

SGD, batch 128, learning rate 0.1 divided by 10 at steps 40,000, 60,000 and 80,000, label smoothing
0.1. The paper does not state the momentum; 0.9 is ours, as in He et al. (2016).

  python -m tf_hessian.bin.train    --config=configs/cifar10_resnet32.py --workdir=runs/resnet32
  python -m tf_hessian.bin.spectrum --config=configs/cifar10_resnet32.py --workdir=runs/resnet32

Without batch normalization: --config.model.normalization=none --config.train.learning_rate=0.01.
A short run: --config.schedule_scale=0.05.

Expected: the paper has 92 % on the validation set, 85 % without augmentation. The whole schedule
takes 14 hours on 2 cores at half a second a step, and a pass of products minutes:
hessian.num_examples takes fewer. docs/training.md has shorter runs.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = dict(
    name="cifar_resnet",
    depth=32,
    normalization="batch",  # or "population", "none"
    residual=True,
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
    momentum=0.9,
    learning_rate=0.1,
    schedule="steps",
    decay_steps=(40_000, 60_000, 80_000),
    steps=100_000,
    checkpoint_steps=(0, 20_000, 40_000, 60_000, 80_000),
    test_every=10_000,
    test_examples=10_000,
  )

  config.hessian = dict(
    batch_size=128,
    training=True,  # batch statistics
    num_shards=100,  # parts of a pass that workers of a cluster are handed
  )

  config.lanczos = dict(draws=10, steps=90)
  config.density = dict(sigma_squared=1e-5)
  return config
