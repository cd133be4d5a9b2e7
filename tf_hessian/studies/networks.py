"""Sizes of the networks, and the lowest loss (section F)."""

from __future__ import annotations

import numpy as np

from tf_hessian.experiments import experiment
from tf_hessian.studies.chapter import Chapter, Table, judged, prose, together
from tf_hessian.studies.context import Context
from tf_hessian.training import task

# Config, what the paper says, and the range that its words allow.
PAPER = (
  ("mnist_mlp", "small model", "15,910", (15_910, 15_910)),
  ("cifar10_resnet32", "ResNet-32", "460k", (455_000, 465_000)),
  ("cifar10_vgg11", "VGG-11, 256 units", "over 10 million", (10e6, 12e6)),
  ("imagenet_resnet18", "ResNet-18", "over 11 million", (11e6, 12e6)),
  ("imagenet_inception_v3", "Inception V3", "27 million", (26.5e6, 27.5e6)),
)
PAPER_LOWEST = 0.509


def measure(context: Context) -> dict:
  """Counts the trainable parameters of the paper's networks."""
  counts = {}
  for config, *_ in PAPER:
    fields = dict(context.config(config).model.to_dict())
    model = experiment.MODELS[fields.pop("name")](**fields)
    counts[config] = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
  return {"parameters": counts, "lowest_loss": task.smoothed_entropy(0.1, 10)}


def describe(numbers: dict) -> Chapter:
  """Describes the networks' sizes and the lowest loss."""
  counts, lowest = numbers["parameters"], numbers["lowest_loss"]
  fits = [low <= counts[config] <= high for config, _, _, (low, high) in PAPER]
  same = f"{lowest:.3f}" == str(PAPER_LOWEST)
  verdicts = [judged(fit, not fit) for fit in (*fits, same)]
  return Chapter(
    title="Sizes of the networks",
    section="F",
    claim=prose(f"""the networks have 15,910 to 27 million parameters, and the lowest cross entropy
      with label smoothing 0.1 is {PAPER_LOWEST}."""),
    found=prose(f"""{sum(fits)} of {len(fits)} networks have as many as the text says; the lowest
      cross entropy is {lowest:.4f}."""),
    verdict=together(verdicts),
    reason=prose("""Smoothing 0.1 over ten classes gives targets of 0.91 and 0.01, whose entropy is
      the number here (`training.task.smoothed_entropy`, with a test). The text does not fix how
      many poolings VGG-11 has: the config has three; with five it would have 9,420,170 parameters.
      ResNet-18 and Inception V3 have 1,001 classes, Inception V3 its auxiliary head. Trained ones
      are counted: weights, biases, scales and offsets."""),
    tables=(
      Table(
        ("", "paper", "here", ""),
        tuple(
          (*row, verdict.value)
          for row, verdict in zip(
            (
              *((title, said, f"{counts[config]:,}") for config, title, said, _ in PAPER),
              ("lowest cross entropy", str(PAPER_LOWEST), f"{lowest:.4f}"),
            ),
            verdicts,
            strict=True,
          )
        ),
      ),
    ),
  )
