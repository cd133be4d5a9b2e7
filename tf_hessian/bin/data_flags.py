"""Flags of where data sets are."""

from absl import flags

from tf_hessian.bin import kinds

DATA_DIR = kinds.define_path(
  "data_dir", None, "Folder with TFDS data sets; default: TFDS's own, ~/tensorflow_datasets."
)
DOWNLOAD = flags.DEFINE_bool("download", False, "Fetch a data set that isn't there, through TFDS.")


def options():
  """Returns the flags as arguments of `commands.train` and `commands.spectrum`."""
  return {"data_dir": DATA_DIR.value, "download": DOWNLOAD.value}
