"""Search and train behind the ImageNet stem: record files that fit in memory, or the embedded Fashion-MNIST."""

from __future__ import annotations

import sys

from dso_nas import cli

if __name__ == "__main__":
    sys.exit(cli.run("classification", "train_imagenet.py", "imagenet-demo"))
