"""Whether the product is right for each layer, loss, activation and operation of Keras."""
