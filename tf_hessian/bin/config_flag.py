"""The flag of a config file, and of its fields."""

from __future__ import annotations

import re
import sys

from absl import flags
from ml_collections import config_flags

from tf_hessian.bin import kinds
from tf_hessian.experiments import configs


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Parser of the path of a config.

  It says in a line what is wrong with the file or an override.
  """

  def parse(self, path):
    try:
      config = configs.load_config(kinds.expanded(path))
    except OSError as e:
      raise ValueError(e) from e  # which absl names the flag of
    for argument in flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False):
      found = re.match(rf"--?(?:no)?{self.name}\.([^=]*)", argument)
      if found:
        configs.check_override(config, found[1])
    return config


def define_config(name: str, text: str, /) -> flags.FlagHolder:
  """Defines the flag; returns its holder."""
  holder = config_flags.DEFINE_config_file(name, None, text, lock_config=True)
  flags.FLAGS[name].parser = _Parser(name)
  return holder
