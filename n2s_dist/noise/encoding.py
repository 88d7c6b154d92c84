"""How a noisy value is held in 16 bits of a stored tile."""

from dataclasses import dataclass

import numpy as np

HIGHEST = 65535


@dataclass(frozen=True)
class Encoding:
    """A noisy value y on the 0-1 scale is stored as (y - offset) / scale in dtype."""

    dtype: str
    scale: float
    offset: float

    def encode(self, noisy: np.ndarray) -> np.ndarray:
        stored = (noisy.astype(np.float64) - self.offset) / self.scale
        return (np.clip(np.round(stored), 0, HIGHEST) if self.dtype == "uint16" else stored).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """float32, the arithmetic of the loader's graph."""
        return stored.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)


CLEAN = Encoding("uint8", 1 / 255, 0.0)
FLOAT16 = Encoding("float16", 1.0, 0.0)  # its error is relative to the value
