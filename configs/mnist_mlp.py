"""The small model of section B of the paper: 784-20-10 on 1,000 MNIST digits, n = 15,910.

Trained with label smoothing 0.1 until all 1,000 digits are classified correctly and on to the end
of the schedule. Where the paper is silent (optimizer, length), the values are ours.

  python -m tf_hessian.bin.train    --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp
  python -m tf_hessian.bin.spectrum --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp

Expected: 10,500 steps, loss 0.514; ten eigenvalues of 0.9 to 2.3 stand apart, the rest lie near 0,
the smallest at -0.006. Rounding decides which minimum training ends in, so the numbers differ
between machines as they do between seeds. About half a minute on 2 cores.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # initial weights, order of training, start vectors

  config.model = ml_collections.ConfigDict()
  config.model.name = "mlp"
  config.model.input_shape = (784,)
  config.model.hidden_units = (20,)
  config.model.num_classes = 10

  config.data = ml_collections.ConfigDict()
  config.data.name = "mnist"
  config.data.num_examples = 1000

  config.loss = ml_collections.ConfigDict()
  config.loss.name = "CategoricalCrossentropy"
  config.loss.from_logits = True
  config.loss.label_smoothing = 0.1  # paper, section F

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 8
  config.train.learning_rate = 0.2
  config.train.momentum = 0.0  # with 0.9, the largest eigenvalue varies more between seeds
  config.train.steps = 7500  # 60 epochs
  config.train.until_accuracy = 1.0  # goes on after `steps` until this is reached
  config.train.max_steps = 250_000
  config.train.log_every = 750

  config.hessian = ml_collections.ConfigDict()
  config.hessian.batch_size = 250  # four batches, for workers to share
  config.hessian.training = False  # there is nothing that differs in training
  config.hessian.mode = ""  # chosen by the model's operations
  config.hessian.variables = ""  # a name pattern, such as "hidden_1/*"; empty for all
  config.hessian.num_shards = 16  # parts of a pass that workers of a cluster are handed

  config.lanczos = ml_collections.ConfigDict()
  config.lanczos.draws = 10  # paper
  config.lanczos.steps = 90  # paper
  config.lanczos.target_error = 0.0  # stop when the density is as good as this; 0: never

  config.density = ml_collections.ConfigDict()
  config.density.sigma_squared = 1e-5  # paper
  config.density.relative = False
  return config
