import os

__version__ = "0.1.0"

os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # Ultralytics shall not install packages behind the user's back


def __getattr__(name):
    "`yolov10_qat.load` without importing torch before it is asked for."
    if name != "load": raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from yolov10_qat.checkpoint import load
    return load
