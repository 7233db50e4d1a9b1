"""See `sparrow_kernels.video_shim`."""

from sparrow_kernels.video_shim import install_video_shim

__all__ = ["install_video_shim"]
