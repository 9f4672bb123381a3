"So that `python -m yolov10_qat` is the command `yolov10-qat`."
import os
import sys

if sys.path[0] == os.getcwd(): del sys.path[0]  # a folder `ultralytics` in the working folder is not meant

from yolov10_qat.cli import main  # noqa: E402

main()
