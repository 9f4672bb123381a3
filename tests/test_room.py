"No room: a full disk, a quota, a limit on files; wherever it happens, the message says which file and what to do."
import errno
import os
import resource
import subprocess
import sys

import pytest

from small_notebooks import ENTER, write
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.files import NoRoom, message_of, replace_file, write_atomic
from yolov10_qat.core.layout import Layout
from yolov10_qat.pipeline import entrance, launch
from yolov10_qat.runs.summary import load_summary

NO_ROOM = {errno.ENOSPC: 'its disk is full; make room', errno.EDQUOT: 'quota of its disk is used up; make room',
           errno.EFBIG: 'raise the limit (ulimit -f)'}


@pytest.fixture(params=NO_ROOM, ids=[errno.errorcode[n] for n in NO_ROOM])
def number(request): return request.param


def fails(number): raise OSError(number, os.strerror(number))


def test_a_file_that_is_replaced(number, tmp_path):
    write_atomic(tmp_path/'a.txt', 'whole')
    with pytest.raises(NoRoom) as caught: replace_file(tmp_path/'a.txt', lambda part: fails(number))
    assert str(caught.value).startswith(f'{tmp_path}/a.txt was not written: ')
    assert NO_ROOM[number] in str(caught.value) and str(caught.value).endswith(', then go on with --resume')
    assert (tmp_path/'a.txt').read_text() == 'whole' and os.listdir(tmp_path) == ['a.txt']


def test_a_library_that_hides_the_reason(number, tmp_path, monkeypatch):
    "torch.save says `iostream error`; then the disk is asked by writing a little more."
    from yolov10_qat.core import files
    def hidden(part):
        part.write_bytes(b'some')
        raise RuntimeError('[enforce fail at inline_container.cc:862] unexpected pos 64 vs 0')
    with pytest.raises(RuntimeError, match='enforce fail'): replace_file(tmp_path/'a.pt', hidden)
    monkeypatch.setattr(files.os, 'fsync', lambda fd: fails(number))
    with pytest.raises(NoRoom) as caught: replace_file(tmp_path/'a.pt', hidden)
    assert NO_ROOM[number] in str(caught.value)
    assert not os.listdir(tmp_path)


def test_other_errors_stay_what_they_are(tmp_path):
    def forbidden(part): fails(errno.EACCES)
    with pytest.raises(PermissionError): replace_file(tmp_path/'a.txt', forbidden)
    assert message_of(OSError(errno.EACCES, 'Permission denied', 'x'), tmp_path) == "[Errno 13] Permission denied: 'x'"


def test_a_stage_of_the_run(number, tmp_path):
    "results.csv, a figure, a list of images: whatever a stage writes, and by which library."
    from yolov10_qat.pipeline.stages import Stages
    run = Stages(RunConfig(run_root=tmp_path/'run', coco_root='demo'))
    with pytest.raises(RuntimeError), run.stage('train'):
        try: fails(number)
        except OSError as e: raise RuntimeError('the table was not written') from e
    told = load_summary(tmp_path/'run').error.message
    assert str(tmp_path/'run') in told and NO_ROOM[number] in told and told.endswith('go on with --resume')
    run.lock.release()


def test_the_executed_notebook(number, tmp_path, monkeypatch):
    "papermill writes it, in the launcher."
    from papermill.iorw import LocalHandler
    monkeypatch.setattr(LocalHandler, 'write', lambda *_: fails(number))
    monkeypatch.setattr(launch, 'TEMPLATE', write(tmp_path/'t.ipynb', ENTER))
    summary, code = launch.launch(entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root='demo')))
    assert code == 1 and summary.status == 'incomplete'
    assert str(tmp_path/'run') in summary.error.message and NO_ROOM[number] in summary.error.message
    assert NO_ROOM[number].split(';')[0] in Layout(tmp_path/'run').report.read_text()


def test_what_the_kernel_wrote_down_is_not_lost_to_papermill(tmp_path, monkeypatch):
    from papermill.iorw import LocalHandler
    real, root = LocalHandler.write, tmp_path/'run'
    monkeypatch.setattr(LocalHandler, 'write', lambda *a: fails(errno.ENOSPC) if load_summary(root).error else real(*a))
    fail = '''from yolov10_qat.runs.folder import record_failure
record_failure(entered.root, 'NoRoom', 'last.pt was not written: its disk is full; make room, then go on with --resume')
raise OSError(28, 'iostream error')'''
    monkeypatch.setattr(launch, 'TEMPLATE', write(tmp_path/'t.ipynb', ENTER, fail))
    summary, code = launch.launch(entrance.enter(RunConfig(run_root=root, coco_root='demo')))
    assert code == 1 and summary.error.message.startswith('last.pt was not written')


def test_a_limit_on_files(tiny, tiny_run, tmp_path):
    "A checkpoint is longer than `ulimit -f` allows."
    limit = 4 << 20
    root = tmp_path/'run'
    done = subprocess.run([sys.executable, '-m', 'yolov10_qat', *map(str, tiny_run), '--run-root', str(root)],
                          capture_output=True, text=True, timeout=600,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1 and 'last.pt was not written' in done.stderr, done.stderr
    assert NO_ROOM[errno.EFBIG] in done.stderr and done.stderr.count('\n') == 1
    assert done.stderr == f'error: {load_summary(root).error.message}\n'
    assert not list(root.rglob('*.part'))
