"""Products of the Hessian of a model's loss with vectors, over a whole data set, in TensorFlow."""
