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

  config.model = ml_collections.ConfigDict()
  config.model.name = "cifar_resnet"
  config.model.depth = 32
  config.model.normalization = "batch"  # or "population", "none"
  config.model.residual = True

  config.data = ml_collections.ConfigDict()
  config.data.name = "cifar10"
  config.data.num_examples = 0  # all
  config.data.standardization = "per_image"  # or "per_channel"
  config.data.augment = True  # while training

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "CategoricalCrossentropy"
  config.loss.from_logits = True
  config.loss.label_smoothing = 0.1

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 128
  config.train.momentum = 0.9
  config.train.learning_rate = 0.1
  config.train.schedule = "steps"
  config.train.decay_steps = (40_000, 60_000, 80_000)
  config.train.decay_factor = 0.1
  config.train.zero_steps = 0
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
  config.hessian.training = True  # batch statistics
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""  # a name pattern, such as "stage1_*"; empty for all
  config.hessian.num_shards = 100  # parts of a pass that workers of a cluster are handed

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10
  config.lanczos.steps = 90
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
