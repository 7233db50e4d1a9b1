"""Training of the small target from nothing, on clips the package draws itself."""

from sparrow_kernels.models.video_shim import install_video_shim

install_video_shim()  # before any module here imports transformers
