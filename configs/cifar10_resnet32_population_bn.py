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

  config.model = ml_collections.ConfigDict()
  config.model.name = "cifar_resnet"
  config.model.depth = 32
  config.model.normalization = "population"
  config.model.residual = True

  config.data = ml_collections.ConfigDict()
  config.data.name = "cifar10"
  config.data.num_examples = 0  # all
  config.data.standardization = "per_image"
  config.data.augment = True  # while training

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "CategoricalCrossentropy"
  config.loss.from_logits = True
  config.loss.label_smoothing = 0.1

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 128
  config.train.momentum = 0.9
  config.train.learning_rate = 0.001  # a hundredth
  config.train.schedule = "steps"
  config.train.decay_steps = (40_000, 60_000, 80_000)
  config.train.decay_factor = 0.1
  config.train.zero_steps = 400
  config.train.steps = 100_000
  config.train.checkpoint_steps = (0, 20_000, 40_000, 60_000, 80_000)
  config.train.log_every = 100
  config.train.test_every = 10_000
  config.train.test_examples = 10_000

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 128
  config.hessian.num_examples = 0  # all
  config.hessian.augment = False
  config.hessian.filter_normalization = False
  config.hessian.training = False  # population statistics
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""
  config.hessian.num_shards = 100

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10
  config.lanczos.steps = 90
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
