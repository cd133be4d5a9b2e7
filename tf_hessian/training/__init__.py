"""Training of the models that are measured."""
