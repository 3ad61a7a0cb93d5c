"""What a recipe says of images that are read from record files while training runs. Nothing here needs MXNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Union


@dataclass(frozen=True)
class StreamAugmentation:
    """How fb.resnet changes a training image; evaluation has none of it.

    Attributes:
        min_area: a random part of the image, at least this share of its area, becomes the input.
        max_aspect: that part's width to height, from 1 / max_aspect to max_aspect.
        flip: mirror half of the images left to right.
        jitter: brightness, contrast and saturation, each times 1 - jitter to 1 + jitter, in random order.
        lighting: standard deviation of the noise along the colours' principal components.
    """

    min_area: float = 0.08
    max_aspect: float = 4 / 3
    flip: bool = True
    jitter: float = 0.4
    lighting: float = 0.1

    def options(self) -> Dict[str, Any]:
        """What ImageRecordIter calls this."""
        return {"random_resized_crop": True, "min_random_area": self.min_area, "max_random_area": 1.0,
                "min_aspect_ratio": 1 / self.max_aspect, "max_aspect_ratio": self.max_aspect,
                "rand_mirror": self.flip, "brightness": self.jitter, "contrast": self.jitter,
                "saturation": self.jitter, "pca_noise": self.lighting}


@dataclass(frozen=True)
class Streaming:
    """Whether and how a recipe reads its images while training runs.

    Attributes:
        mode: True, False, or 'auto': where they are too many for memory or of more than one size.
        image_size: side of the square that the network takes.
        augmentation: of training images.
    """

    mode: Union[bool, str] = "auto"
    image_size: Optional[int] = None
    augmentation: StreamAugmentation = StreamAugmentation()
