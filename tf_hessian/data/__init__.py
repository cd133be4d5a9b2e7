"""Data sets as deterministic `tf.data.Dataset`s of single examples (input, target)."""
