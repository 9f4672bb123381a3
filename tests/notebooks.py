"Notebooks run in processes forked from one that has imported torch: as separate as kernels, without seconds of import each."
import multiprocessing
import os
import traceback
from pathlib import Path

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['torch', 'torchvision', 'pandas', 'matplotlib.pyplot', 'execnb.shell'])


def run_cells(sources, folder, log):
    "Run the cells from top to bottom in `folder`; what they and their processes say, and why they ended, go into `log`."
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2): os.dup2(file, stream)
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
