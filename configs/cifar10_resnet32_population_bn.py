"""ResNet-32 on CIFAR-10 with the population statistics of batch normalization (paper, section G).

As cifar10_resnet32, but training normalises by the moving statistics. The paper's recipe: the
learning rate divided by 100, and 400 steps at learning rate 0 first, in which the statistics
settle. Figure 19 compares with mini-batch statistics: --config.model.normalization=batch.

  python -m tf_hessian.bin.train --config=configs/cifar10_resnet32_population_bn.py \
    --workdir=runs/population_bn

Expected: the loss falls more slowly than with mini-batch statistics; docs/training.md.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`, but not zero_steps

  config.model = dict(name="cifar_resnet", depth=32, normalization="population", residual=True)

  config.data = dict(
    name="cifar10",
    num_examples=0,  # all
    standardization="per_image",
    augment=True,  # while training
  )

  config.loss = dict(name="CategoricalCrossentropy", from_logits=True, label_smoothing=0.1)

  config.train = dict(
    batch_size=128,
    momentum=0.9,
    learning_rate=0.001,  # a hundredth
    schedule="steps",
    decay_steps=(40_000, 60_000, 80_000),
    zero_steps=400,
    steps=100_000,
    checkpoint_steps=(0, 20_000, 40_000, 60_000, 80_000),
    test_every=10_000,
    test_examples=10_000,
  )

  config.hessian = dict(
    batch_size=128,
    training=False,  # population statistics
    num_shards=100,
  )

  config.lanczos = dict(draws=10, steps=90)
  config.density = dict(sigma_squared=1e-5)
  return config
