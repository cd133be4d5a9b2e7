"""ResNet-18 on ImageNet at 299 x 299, n = 11,692,329 (paper, section F).

The network is version 2 of the official TensorFlow Models repository of 2017, with 1,001 classes.
Trained asynchronously in the paper, on 50 GPUs, with batches of 32 and a learning rate that decays
exponentially from 0.045; how fast it decays, the momentum and the number of steps are ours.

  python -m tf_hessian.bin.train --config=configs/imagenet_resnet18.py --workdir=runs/resnet18 \
    --strategy=parameter_server   # in each task of a cluster, docs/cluster.md
  python -m tf_hessian.bin.spectrum --config=configs/imagenet_resnet18.py --workdir=runs/resnet18

Expected: the paper has 71.9 % on the validation set, and 20 hours for 90 Lanczos steps on 10 GPUs.
Not trained here; products are measured in docs/training.md. ImageNet has to be prepared by
TFDS: --data_dir, --download.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = ml_collections.ConfigDict()
  config.model.name = "imagenet_resnet18"
  config.model.num_classes = 1001
  config.model.input_shape = (299, 299, 3)
  config.model.normalization = "batch"  # or "population", "none"

  config.data = ml_collections.ConfigDict()
  config.data.name = "imagenet2012"
  config.data.num_examples = 0  # all
  config.data.size = 299
  config.data.num_classes = 1001
  config.data.augment = True  # while training

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "CategoricalCrossentropy"
  config.loss.from_logits = True
  config.loss.label_smoothing = 0.1

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 32
  config.train.per_replica = True
  config.train.momentum = 0.9
  config.train.learning_rate = 0.045
  config.train.schedule = "exponential"
  config.train.decay_steps = (80_000,)  # two epochs of all workers' steps
  config.train.decay_factor = 0.94
  config.train.steps = 4_000_000  # 100 epochs
  config.train.checkpoint_steps = (0, 1_000_000, 2_000_000, 3_000_000)
  config.train.log_every = 100
  config.train.test_every = 40_000
  config.train.test_examples = 50_000

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 32
  config.hessian.num_examples = 0  # all
  config.hessian.augment = False
  config.hessian.filter_normalization = False
  config.hessian.training = True  # batch statistics
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""
  config.hessian.num_shards = 1000

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10
  config.lanczos.steps = 90
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5
  config.density.relative = False
  return config
