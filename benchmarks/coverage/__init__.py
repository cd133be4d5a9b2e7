"""Correctness of products with each layer, loss and operation of Keras."""
