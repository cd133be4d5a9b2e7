"""Keras models that the paper measures; each returns logits."""
