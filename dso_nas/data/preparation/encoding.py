"""What becomes of an image on its way into a record file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Tuple

from PIL import Image, ImageOps

from dso_nas.data.pictures import open_picture
from dso_nas.data.preparation.pictures import Picture
from dso_nas.data.records import encode_image
from dso_nas.errors import UserError

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
# What a record file may hold as it is.
_KEPT = ("JPEG", "PNG")
_LARGEST = 100_000_000
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        resize: pixels of the shorter edge; 0 keeps the size.
        square: cut the middle square out, so that all images are of one size.
        quality: of JPEG, 1 to 95.
    """

    resize: int
    square: bool
    quality: int

    def __call__(self, picture: Picture) -> Tuple[int, bytes]:
        """Label and encoded image: the file as it is where nothing has to change, else JPEG.

        Raises:
            UserError: the image is damaged, of another format, or of too many pixels.
        """
        content = picture.read()
        try:
            with open_picture(io.BytesIO(content), _FORMATS) as image:
                if image.width * image.height > _LARGEST:
                    raise ValueError(f"{image.width}x{image.height} pixels, {_LARGEST:,} are allowed")
                image.load()
                return picture.label, self._encoded(image, content)
        except Exception as error:  # Damaged files bring nearly every exception out of a decoder.
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{picture.where}: cannot be used as an image ({reason}); replace it") from error

    def _encoded(self, image: Image.Image, content: bytes) -> bytes:
        width, height = image.size
        scale = self.resize / min(width, height) if self.resize else 1.0
        fits = scale == 1 and not (self.square and width != height)
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        if fits and upright and image.format in _KEPT and image.mode in ("RGB", "L"):
            return content
        changed = ImageOps.exif_transpose(image).convert("RGB")
        if scale != 1:
            size = [max(round(edge * scale), self.resize) for edge in changed.size]
            changed = changed.resize(size, Image.Resampling.BICUBIC)
        return encode_image(self._cut(changed), "jpeg", self.quality)

    def _cut(self, image: Image.Image) -> Image.Image:
        if not self.square:
            return image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))
