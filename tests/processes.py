"What other processes do: whether one lives, and whether any works in a run folder."
from pathlib import Path

from yolov10_qat.core.files import RunLocked, check_unlocked


def alive(pid):
    "Whether a process runs; one that has ended and that nobody has waited for does not."
    try: return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError): return False


def free(root):
    "Whether nobody holds a run folder. Later than the end of a process: the first thread may be gone, and another not."
    try: check_unlocked(root)
    except RunLocked: return False
    return True
