"""Search and train on small images: CIFAR-10, CIFAR-100, the embedded Fashion-MNIST, or record files."""

from __future__ import annotations

import sys

from dso_nas import cli

if __name__ == "__main__":
    sys.exit(cli.run("classification", "train_cifar.py", "demo"))
