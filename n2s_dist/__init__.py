"""Noise2Score at scale: train image denoisers from noisy images alone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from n2s_dist.inference.network_choice import load_denoiser

__version__ = "0.2.0"
__all__ = ["load_denoiser"]


def __getattr__(name: str) -> Any:
    """load_denoiser, imported when it is asked for: torch takes seconds."""
    if name == "load_denoiser":
        from n2s_dist.inference.network_choice import load_denoiser

        return load_denoiser
    raise AttributeError(f"module 'n2s_dist' has no attribute '{name}'")
