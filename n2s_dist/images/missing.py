"""Values that are not there: NaN, masked, or of a hot pixel. What takes their place while an image is denoised."""

import numpy as np
from scipy.ndimage import distance_transform_edt


def fill_missing(pixels: np.ndarray, missing: np.ndarray) -> None:
    """Put the nearest value that is there in each missing one's place. pixels, missing: [N, H, W, C], C = 1 or 3.

    So noise goes on, and nothing of a missing value comes through. A channel without any value gets the others' mean.
    """
    for image, gaps in zip(pixels, missing, strict=True):
        rest = image[~gaps]
        for channel in range(image.shape[-1]):
            values, holes = image[..., channel], gaps[..., channel]
            if holes.all():
                values[...] = rest.mean() if rest.size else 0.5
            elif holes.any():
                rows, columns = distance_transform_edt(holes, return_distances=False, return_indices=True)
                values[holes] = values[rows[holes], columns[holes]]
