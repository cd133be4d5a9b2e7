"""ResNet-18 on ImageNet at 299 x 299, n = 11,692,329 (paper, section F).

The network is version 2 of the official TensorFlow Models repository of 2017, with 1,001 classes.
Trained asynchronously in the paper, on 50 GPUs, with batches of 32 and a learning rate that decays
exponentially from 0.045; how fast it decays, the momentum and the number of steps are ours.

  python -m tf_hessian.bin.train --config=configs/imagenet_resnet18.py --workdir=runs/resnet18 \
    --strategy=parameter_server   # in each task of a cluster, docs/cluster.md
  python -m tf_hessian.bin.spectrum --config=configs/imagenet_resnet18.py --workdir=runs/resnet18

Expected: the paper has 71.9 % on the validation set, and 20 hours for 90 Lanczos steps.
Not trained here; products are measured in docs/training.md. ImageNet has to be prepared by
TFDS: --data_dir, --download.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = dict(
    name="imagenet_resnet18",
    num_classes=1001,
    input_shape=(299, 299, 3),
    normalization="batch",  # or "population", "none"
  )

  config.data = dict(
    name="imagenet2012",
    num_examples=0,  # all
    size=299,
    num_classes=1001,
    augment=True,  # while training
  )

  # Smoothing is ours; the paper names it for CIFAR-10.
  config.loss = dict(name="CategoricalCrossentropy", from_logits=True, label_smoothing=0.1)

  config.train = dict(
    batch_size=32,
    per_replica=True,
    momentum=0.9,
    learning_rate=0.045,
    schedule="exponential",
    decay_steps=(80_000,),  # two epochs of all workers' steps
    decay_factor=0.94,
    steps=4_000_000,  # 100 epochs
    checkpoint_steps=(0, 1_000_000, 2_000_000, 3_000_000),
    test_every=40_000,
    test_examples=50_000,
  )

  config.hessian = dict(
    batch_size=32,
    training=True,  # batch statistics
    num_shards=1000,
  )

  config.lanczos = dict(draws=10, steps=90)
  config.density = dict(sigma_squared=1e-5)
  return config
