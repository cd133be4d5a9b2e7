"""Kinds of flags: paths, which are not empty and in which `~` is the home folder."""

from __future__ import annotations

from collections.abc import Sequence
import os

from absl import flags

flags.disclaim_key_flags()  # flags belong to the modules that define them by these functions


def expanded(text: str, /) -> str:
  """Returns a path, or name=path, with `~` as the home folder.

  Raises ValueError for an empty one.
  """
  if not text.strip() or "\0" in text:
    raise ValueError("a path is expected, and it is empty")
  name, equals, path = text.partition("=")
  if equals and path.startswith("~"):
    return name + equals + os.path.expanduser(path)
  return os.path.expanduser(text)


class _PathParser(flags.ArgumentParser):
  """Parser of a path."""

  syntactic_help = "a path"

  def parse(self, argument):
    return expanded(argument)


class _PathsParser(flags.ListParser):
  """Parser of paths, each of which may have a name."""

  def parse(self, argument):
    if isinstance(argument, str) and os.path.exists(os.path.expanduser(argument)):
      return [expanded(argument)]  # a comma may be in its name
    found = super().parse(argument)
    if not found:
      raise ValueError("a path is expected, and it is empty")
    return [expanded(item) for item in found]


def define_path(name: str, default: str | None, text: str, /) -> flags.FlagHolder:
  """Defines a flag whose value is a path; returns its holder."""
  return flags.DEFINE(_PathParser(), name, default, text, serializer=flags.ArgumentSerializer())


def define_paths(name: str, default: Sequence[str] | None, text: str, /) -> flags.FlagHolder:
  """Defines a flag that is a list of paths; returns its holder.

  It can be given once: of several, the last would count.
  """
  serializer: flags.ArgumentSerializer = flags.ListSerializer(",")
  return flags.DEFINE(
    _PathsParser(), name, default, text, serializer=serializer, allow_overwrite=False
  )
