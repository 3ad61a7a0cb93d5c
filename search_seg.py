"""Search the feature extractor of a DeepLab v3 on segmentation, and train what was found (paper, section 4.4)."""

from __future__ import annotations

import sys

from dso_nas import cli

if __name__ == "__main__":
    sys.exit(cli.run("segmentation", "search_seg.py", "seg-demo"))
