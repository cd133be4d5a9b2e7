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

  config.model = dict(
    name="cifar_resnet",
    depth=14,
    normalization="batch",  # or "population", "none"
    residual=True,
    width=8,  # channels of the first stage; 16 in He et al. (2016)
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
    decay_steps=(900,),
    steps=1200,
    checkpoint_steps=(0, 100, 400, 1200),
    log_every=20,
    test_examples=2000,
  )

  config.hessian = dict(
    batch_size=128,
    num_examples=512,
    training=True,  # batch statistics
    num_shards=4,  # parts of a pass that workers of a cluster are handed
  )

  config.lanczos = dict(draws=2, steps=40)
  config.density = dict(sigma_squared=1e-5)
  return config
