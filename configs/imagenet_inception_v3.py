"""Inception V3 on ImageNet at 299 x 299, with its auxiliary head: n = 27,145,970 (section C).

The loss of the auxiliary head has the weight 0.4. Training as for imagenet_resnet18; the paper does
not describe it.

  python -m tf_hessian.bin.train --config=configs/imagenet_inception_v3.py --workdir=runs/v3 \
    --strategy=parameter_server   # in each task of a cluster, docs/cluster.md
  python -m tf_hessian.bin.spectrum --config=configs/imagenet_inception_v3.py \
    --workdir=runs/v3

Expected: the paper has 3 days for 90 Lanczos steps, with 2 GPUs a worker. Not trained here;
products are measured in docs/training.md. If a batch does not fit into memory:
--recompute_blocks, docs/cluster.md.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, augmentation, start vectors
  config.schedule_scale = 1.0  # shortens the schedule of `train`

  config.model = dict(
    name="inception_v3",
    num_classes=1001,
    input_shape=(299, 299, 3),
    normalization="batch",  # or "population", "none"
    auxiliary=True,
    dropout_rate=0.2,
  )

  config.data = dict(
    name="imagenet2012",
    num_examples=0,  # all
    size=299,
    num_classes=1001,
    augment=True,  # while training
  )

  config.loss = dict(
    name="CategoricalCrossentropy",
    from_logits=True,
    label_smoothing=0.1,  # ours; the paper names it for CIFAR-10
    weights=(1.0, 0.4),  # of the logits, of the auxiliary head
  )

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
