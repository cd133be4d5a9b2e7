"""A network of this process's own, which nobody outside can reach."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import socket
import struct
import sys

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_REQUEST = "16sH14x"  # struct ifreq: name, flags


def enter() -> None:
  """Moves this process into a network that has only 127.0.0.1.

  Processes that it will start are in that network too. Call it before there are other threads.

  Raises:
    OSError: if the system doesn't allow it, or has no such networks.
  """
  if sys.platform != "linux":
    raise OSError("only Linux has networks of a process's own")
  child = os.fork()  # tries it: there is no way back
  if not child:
    os._exit(_attempt())
  number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  if number:
    raise OSError(number, os.strerror(number))
  _enter()


def _attempt():
  """Returns the number of the error with which it fails, or 0."""
  try:
    _enter()
  except OSError as e:
    return e.errno or errno.EPERM
  return 0


def _enter():
  user, group = os.geteuid(), os.getegid()
  libc = ctypes.CDLL(None, use_errno=True)
  if libc.unshare(_CLONE_NEWNET):  # as root
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
      number = ctypes.get_errno()
      raise OSError(number, os.strerror(number))
    _keep_identity(user, group)
  _raise_loopback()


def _keep_identity(user, group):
  """Gives this process the user and group that it had.

  They are numbers in its new name space of users.
  """
  own = pathlib.Path("/proc/self")
  with contextlib.suppress(OSError):
    (own / "setgroups").write_text("deny")
  (own / "uid_map").write_text(f"{user} {user} 1")
  (own / "gid_map").write_text(f"{group} {group} 1")


def _raise_loopback():
  import fcntl

  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    request = struct.pack(_REQUEST, b"lo", 0)
    name, flags = struct.unpack(_REQUEST, fcntl.ioctl(control, _SIOCGIFFLAGS, request))
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_REQUEST, name, flags | _IFF_UP))
