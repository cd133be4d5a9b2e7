"""A spectrum of your own model on your own data; docs/own_model.md.

  python -m tf_hessian.bin.spectrum --config=configs/own_model.py --workdir=runs/own \
    --config.model.path=model.keras --config.data.function=path/to/data.py:examples

The function returns single examples (input, target[, sample weight]) in a fixed order: a
`tf.data.Dataset`, a tuple of arrays, or a generator.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # start vectors, and what random layers draw

  config.model = dict(name="keras_file", path="model.keras")

  config.data = dict(
    name="function",
    function="data.py:examples",
    num_examples=0,  # all; of data without an end, the first so many
  )

  config.loss = dict(
    name="CategoricalCrossentropy",  # or another class of keras.losses
    from_logits=True,
  )

  config.hessian = dict(
    batch_size=128,
    training=False,  # True: batch statistics, and dropout with fixed seeds
  )

  config.lanczos = dict(draws=10, steps=90)
  config.density = dict(sigma_squared=1e-5)
  return config
