"""Opening image files with Pillow."""

from __future__ import annotations

from typing import Any, Tuple

from PIL import Image, ImageFile


def open_picture(source: Any, formats: Tuple[str, ...]) -> Image.Image:
    """An image in one of `formats`, of a file's name or stream; what is cut off will not decode.

    GluonCV, where it is loaded, tells Pillow for all of the process to pass a cut-off image as whole, grey below.

    Raises:
        Exception: nearly any, for a file that is damaged.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return Image.open(source, formats=formats)
