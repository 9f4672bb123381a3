"Commands with a limit that holds: nobody who inherited a pipe is waited for, and what was started ends with the limit."
import os
import signal
import subprocess
import tempfile


def bounded(words, timeout_s=600, **kw):
    "As `subprocess.run` with captured text, but in a process group of its own, which ends when the time is up."
    with tempfile.TemporaryFile('w+', encoding='utf-8') as out, tempfile.TemporaryFile('w+', encoding='utf-8') as err:
        process = subprocess.Popen([str(w) for w in words], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   start_new_session=True, **kw)
        try: process.wait(timeout_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for file in (out, err): file.seek(0)
        return subprocess.CompletedProcess(words, process.returncode, out.read(), err.read())
