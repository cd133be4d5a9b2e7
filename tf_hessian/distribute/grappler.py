"""Rewrites of graphs that TensorFlow lets a program switch.

This module needs no TensorFlow, since flags are made of it.
"""

# The rewrites that `tf.config.optimizer.set_experimental_options` knows, by name.
from __future__ import annotations

GRAPPLER = {
  "layout_optimizer": "choose the memory layout of images",
  "constant_folding": "compute constant parts once",
  "shape_optimization": "simplify what computes shapes",
  "remapping": "fuse groups of operations",
  "arithmetic_optimization": "simplify arithmetic (adds up in varying order: not with determinism)",
  "dependency_optimization": "remove and merge control dependencies",
  "loop_optimization": "hoist out of loops",
  "function_optimization": "inline functions",
  "debug_stripper": "remove assertions and prints",
  "disable_model_pruning": "keep operations that nothing uses",
  "scoped_allocator_optimization": "allocate operands of collectives together",
  "pin_to_host_optimization": "move small operations to the host",
  "implementation_selector": "choose implementations by device",
  "auto_mixed_precision": "compute in float16 where it is thought safe",
  "auto_mixed_precision_onednn_bfloat16": "compute in bfloat16 where it is thought safe, by oneDNN",
  "use_plugin_optimizers": "apply the rewrites of device plugins",
  "disable_meta_optimizer": "switch all of these off",
}

# Grappler's rewrites that change no bit of a product, and that made none faster on a CPU: what they
# take of a first call is for nothing (docs/design/repeatable.md).
OF_NO_USE = (
  "dependency_optimization",
  "function_optimization",
  "implementation_selector",
  "layout_optimizer",
  "loop_optimization",
  "pin_to_host_optimization",
  "scoped_allocator_optimization",
  "shape_optimization",
)
