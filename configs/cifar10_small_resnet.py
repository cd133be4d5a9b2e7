"""A narrow ResNet-14 on CIFAR-10, n = 43,634: small enough to be measured often on two cores.

Of the study of batch normalization (`bin.reproduce --figure=batch_norm`), which trains it with
batch normalization, without, and with population statistics, and measures it over training. Network
and schedule are ours; the loss is that of section F.

  python -m tf_hessian.bin.train    --config=configs/cifar10_small_resnet.py --workdir=runs/small
  python -m tf_hessian.bin.spectrum --config=configs/cifar10_small_resnet.py --workdir=runs/small \
    --all_steps

Expected: see docs/reproduction.md.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = ml_collections.ConfigDict()
  config.model.name = "cifar_resnet"
  config.model.depth = 14
  config.model.normalization = "batch"  # or "population", "none"
  config.model.residual = True
  config.model.width = 8  # channels of the first stage; 16 in He et al. (2016)

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
  config.train.decay_steps = (900,)
  config.train.decay_factor = 0.1
  config.train.zero_steps = 0
  config.train.steps = 1200
  config.train.checkpoint_steps = (0, 100, 400, 1200)
  config.train.log_every = 20
  config.train.test_every = 0  # at the end only
  config.train.test_examples = 2000

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 128
  config.hessian.num_examples = 512
  config.hessian.augment = False
  config.hessian.filter_normalization = False
  config.hessian.training = True  # batch statistics
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""  # a name pattern, such as "stage1_*"; empty for all
  config.hessian.num_shards = 4  # parts of a pass that workers of a cluster are handed

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 2
  config.lanczos.steps = 40
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
