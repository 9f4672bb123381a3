"Notebooks and commands run in processes forked from one that has imported torch: as separate as others, without seconds of import each."
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

FORKS = multiprocessing.get_context('forkserver')
# what others wrote; the package itself, and Ultralytics, which reads its settings when it is imported, are imported anew each time
FORKS.set_forkserver_preload(['torch', 'torchvision', 'pandas', 'matplotlib.pyplot', 'execnb.shell', 'brevitas.nn', 'cv2', 'onnx',
                              'pycocotools.cocoeval', 'torch.utils.tensorboard', 'papermill', 'typer'])


def _say_to(out, err):
    for stream, file in ((1, out), (2, err)): os.dup2(file, stream)
    gc.freeze()  # imported modules stay: no collection needs to look through it


def run_cells(sources, folder, log):
    "Run the cells from top to bottom in `folder`; what they and their processes say, and why they ended, go into `log`."
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _say_to(file, file)
    os.chdir(folder)
    from execnb.shell import CaptureShell
    shell = CaptureShell(folder)
    for source in sources:
        done = shell.run_cell(source)
        os.write(file, f'{done.stdout}{done.stderr}\n'.encode())
        if done.exception:
            os.write(file, f'{source}\n{"".join(traceback.format_exception(done.exception))}'.encode())
            os._exit(1)
    os._exit(0)  # threads that a notebook left behind are not waited for


def run_apart(sources, folder, log, timeout_s):
    "Exit status of the cells, and what they said."
    process = FORKS.Process(target=run_cells, args=(sources, Path(folder), log), daemon=False)
    process.start()
    process.join(timeout_s)
    if process.is_alive(): process.kill()
    process.join()
    return process.exitcode, Path(log).read_text(encoding='utf-8', errors='replace')


def run_words(words, folder, environment, out, err):
    "Be `yolov10-qat WORDS`, started in `folder`."
    os.setsid()
    _say_to(*(os.open(file, os.O_WRONLY | os.O_APPEND) for file in (out, err)))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ['yolov10-qat', *words]
    sys.path[:] = [p for p in sys.path if p]
    from yolov10_qat.cli import main
    try: main()
    except SystemExit as end: status = end.code
    except BaseException: status = traceback.print_exc() or 1
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(status or 0)


def act(words, timeout_s=600, cwd='.'):
    "Run `yolov10-qat WORDS` in a process group of its own, which ends when the time is up; its status, stdout and stderr."
    words = [str(w) for w in words]
    with tempfile.NamedTemporaryFile('r', encoding='utf-8') as out, tempfile.NamedTemporaryFile('r', encoding='utf-8') as err:
        process = FORKS.Process(target=run_words, args=(words, Path(cwd).resolve(), {**os.environ}, out.name, err.name))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            raise subprocess.TimeoutExpired(words, timeout_s)
        return subprocess.CompletedProcess(words, process.exitcode, out.read(), err.read())
