"""A clip's cached picture as one row of numbers."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from r1omni.model.feature_store import Features

SOUND: Final = "audio"  # how the names of features of the sound begin; others are of the picture
MAX_FLAT: Final = 2**14  # numbers of a picture that are taken one by one; a larger one is averaged


def picture_row(features: Features) -> NDArray[np.float64]:
    """(F,): every number of a small picture; of a larger one the mean over its tokens.

    What has one dimension places the picture and is no part of it. Raises ValueError for features
    without a picture.
    """
    tensors = [
        x.double()
        for name, x in sorted(features.items())
        if not name.startswith(SOUND) and x.ndim > 1
    ]
    if not tensors:
        raise ValueError("the features have no picture")
    if sum(x.numel() for x in tensors) > MAX_FLAT:
        tensors = [x.flatten(0, -2).mean(dim=0) for x in tensors]
    return np.concatenate([x.numpy().reshape(-1) for x in tensors])
