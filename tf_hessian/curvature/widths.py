"""Numbers of vectors in a pass, and their memory.

It imports no TensorFlow.
"""

from __future__ import annotations

MOST_VECTORS = 32
# Of each of several vectors in a pass, for every parameter: the vector and the product in float64,
# three times each on their way, and both in the model's type.
PARAMETER_BYTES = 36
