import os

from yolov10_qat._moved import install

__version__ = "0.1.0"

# Read when these libraries are imported:
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # Ultralytics shall not install packages behind the user's back
os.environ.setdefault("TORCH_LOGS", "-torch.utils.cpp_extension")  # no warning about a CUDA compiler without a GPU

install()  # import paths of version 0.1.0


def __getattr__(name):
    "`yolov10_qat.load` without importing torch before it is asked for."
    if name != "load": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from yolov10_qat.checkpoint.store import load
    return load
