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

  config.model = ml_collections.ConfigDict()
  config.model.name = "vgg11"
  config.model.dense_units = 256
  config.model.normalization = "none"  # or "batch", "population"

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
  config.train.momentum = 0.0
  config.train.learning_rate = 0.1
  config.train.schedule = "constant"
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
  config.hessian.training = False  # there is nothing that differs in training
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""  # a name pattern, such as "dense_*"; empty for all
  config.hessian.num_shards = 100  # parts of a pass that workers of a cluster are handed

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10
  config.lanczos.steps = 90
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
