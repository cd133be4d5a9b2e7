"""Bytes over the network of one pass, by design: python -m benchmarks.traffic

Counted from the sizes of the tensors that each design moves; nothing is measured. n parameters are
float32 (4 n bytes), vectors and sums are float64 (8 n bytes).

  each batch   a worker reads parameters and vector, and sends its product, for every batch, as the
               paper's implementation did
  shards       the same, for every shard (ParameterServerStrategy)
  equal parts  vector and sums are each reduced around a ring of the workers once a pass; parameters
               stay where they are (MultiWorkerMirroredStrategy)
"""

import argparse

from tf_hessian.distribute import traffic

# (name, parameters, examples, examples of a batch)
_CIFAR10, _IMAGENET = 50_000, 1_281_167


def resnet_32():
  """Returns the number of parameters, counted from the model."""
  from tf_hessian.models.cifar_resnet import cifar_resnet

  return sum(v.value.shape.num_elements() for v in cifar_resnet().trainable_variables)


def resnet_18(classes=1000):
  """Returns the number of parameters of ResNet-18 for ImageNet (He et al., 2016), version 1."""

  def convolution(size, inputs, outputs):
    return size * size * inputs * outputs + 2 * outputs  # with batch normalization

  total, width = convolution(7, 3, 64), 64
  for outputs in (64, 128, 256, 512):
    total += convolution(3, width, outputs) + 3 * convolution(3, outputs, outputs)
    total += convolution(1, width, outputs) if width != outputs else 0
    width = outputs
  return total + width * classes + classes


def inception_v3(classes=1000):
  """Returns the number of parameters of Keras's Inception V3 and of its auxiliary head."""
  import keras

  model = keras.applications.InceptionV3(weights=None, classes=classes)
  total = sum(v.value.shape.num_elements() for v in model.trainable_variables)
  head = (768 * 128 + 128) + (5 * 5 * 128 * 768 + 768) + (768 * classes + classes)
  return total + head


def per_worker(n, *, num_batches, num_shards, num_workers):
  """Returns, for each design, the bytes that a worker receives and sends in a pass."""
  sizes = (4 * n, 8 * n, 8 * n)
  return {
    "each batch": traffic.of_shards(*sizes, num_shards=num_batches, num_workers=num_workers),
    "shards": traffic.of_shards(*sizes, num_shards=num_shards, num_workers=num_workers),
    "equal parts": traffic.of_equal_parts(*sizes[1:], num_workers=num_workers),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workers", type=int, default=50)
  parser.add_argument("--shards", type=int, default=100)
  options = parser.parse_args()
  cases = [
    ("ResNet-32, CIFAR-10", resnet_32(), _CIFAR10, 128),
    ("ResNet-18, ImageNet", resnet_18(), _IMAGENET, 32),
    ("Inception V3, ImageNet", inception_v3(), _IMAGENET, 32),
  ]
  workers, shards = options.workers, options.shards
  print(f"{workers} workers, {shards} shards; GB a pass, per worker and for all workers together")
  for name, n, examples, size in cases:
    batches = -(-examples // size)
    print(f"{name}: {n:,} parameters, {batches:,} batches of {size}")
    found = per_worker(n, num_batches=batches, num_shards=min(shards, batches), num_workers=workers)
    for design, count in found.items():
      ratio = found["each batch"] / count
      print(
        f"  {design:12} {count / 1e9:10.3f} {count * workers / 1e9:12.2f}   1/{ratio:.3g} of the "
        "first"
        if design != "each batch"
        else f"  {design:12} {count / 1e9:10.3f} {count * workers / 1e9:12.2f}"
      )


if __name__ == "__main__":
  main()
