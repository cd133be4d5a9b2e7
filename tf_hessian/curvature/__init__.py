"""Hessian-vector products of a model's loss over a data set, in TensorFlow."""
