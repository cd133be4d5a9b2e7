"""What is printed can be shown wherever it goes."""

import io
import sys

import pytest

from tf_hessian.bin import logs


@pytest.fixture
def stream(monkeypatch):
  """Returns a function: encoding -> (stream that is standard output, function () -> its bytes)."""

  def new(encoding):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # which can't be reconfigured
    logs.make_printable()
    return buffer.getvalue

  return new


@pytest.mark.parametrize(
  "encoding, text, expected",
  [
    ("ascii", "1 ± 2 σ²", b"1 +- 2 sigma^2"),
    ("latin-1", "1 ± 2 σ²", b"1 \xb1 2 sigma\xb2"),
    ("utf-8", "1 ± 2 σ²", "1 ± 2 σ²".encode()),
    ("ascii", "größe/\u4e2d", b"gr\\xf6\\xdfe/\\u4e2d"),
    ("utf-8", "a\udcffb", b"a\\udcffb"),  # a file's name that is no UTF-8
  ],
)
def test_letters_that_can_not_be_shown_are_spelled(stream, encoding, text, expected):
  written = stream(encoding)
  print(text, end="")
  assert written() == expected
