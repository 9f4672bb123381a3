"So that `python -m yolov10_qat` is the command `yolov10-qat`."
from yolov10_qat.cli import main

main()
