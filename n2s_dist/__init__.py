"""Noise2Score at scale: train image denoisers from noisy images alone."""

__version__ = "0.1.0"
