"Whatever happens, a command ends with one line and a status; the traceback of what nobody expected lies in a log."
import os
import subprocess
import sys
from pathlib import Path

import pytest

from yolov10_qat import cli
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.layout import Layout


class Strange(Exception): "Of no kind that is expected."


class Foreign(ValueError): "Of an expected kind, but of a library."


UNEXPECTED = [Strange('what?'), KeyError('model'), TypeError("'int' object is not subscriptable"), MemoryError(),
              Foreign('a\x1b[31mb'), RecursionError('deep'), AssertionError(), Strange('x'*10_000)]
EXPECTED = [ValueError('a b'), OSError(24, 'Too many open files'), RuntimeError('c'), ValueError(), RuntimeError(''),
            FileNotFoundError('no file \x1b[2J\nerror: whole: yes'), ValueError('\u202egnp.exe')]


def ended(monkeypatch, capsys, error, words=('checkpoint', 'show', 'x.pt')):
    def fail(*_, **__): raise error
    monkeypatch.setattr('yolov10_qat.checkpoint.format.describe_checkpoint', fail)
    with pytest.raises(SystemExit) as end: cli.main([*words])
    return end.value.code, capsys.readouterr().err


def is_one_line(err): return err.count('\n') == 1 and err.startswith('error: ') and all(
    c.isprintable() for c in err[:-1]) and err.strip() != 'error:'


@pytest.mark.parametrize('error', UNEXPECTED, ids=lambda e: type(e).__name__)
def test_unexpected(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli.tempfile, 'tempdir', str(tmp_path))
    code, err = ended(monkeypatch, capsys, error)
    assert code == 1 and is_one_line(err) and 'Traceback' not in err
    if isinstance(error, RecursionError): return  # Python's own RuntimeError
    assert type(error).__name__ in err and len(err) < 700
    (log,) = tmp_path.glob('yolov10-qat-*.log')
    assert err.rstrip().endswith(str(log)) and 'Traceback' in log.read_text() and type(error).__name__ in log.read_text()


@pytest.mark.parametrize('error', EXPECTED, ids=lambda e: type(e).__name__)
def test_expected(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli.tempfile, 'tempdir', str(tmp_path))
    code, err = ended(monkeypatch, capsys, error)
    assert code == 1 and is_one_line(err) and not [*tmp_path.glob('*.log')]
    assert (str(error) or type(error).__name__).split()[0].replace('\u202e', '\\u202e') in err


def test_in_a_run_the_log_is_that_of_the_run(monkeypatch, capsys, tmp_path):
    def fail(entered): raise Strange('in the launcher')
    monkeypatch.setattr('yolov10_qat.pipeline.launch.launch', fail)
    with pytest.raises(SystemExit) as end: cli.main(['demo', '--run-root', str(tmp_path/'run')])
    err = capsys.readouterr().err
    assert end.value.code == 1 and is_one_line(err) and err.rstrip().endswith(str(tmp_path/'run'/'run.log'))
    assert 'in the launcher' in Layout(tmp_path/'run').log.read_text()
    monkeypatch.setattr(cli.tempfile, 'tempdir', str(tmp_path))  # the next command is of no run
    code, err = ended(monkeypatch, capsys, Strange('later'))
    assert 'run.log' not in err


def test_nowhere_to_keep_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli.tempfile, 'tempdir', str(tmp_path/'nowhere'))
    code, err = ended(monkeypatch, capsys, Strange('a'))
    assert code == 1 and is_one_line(err) and 'could not be kept' in err


def test_interrupt(monkeypatch, capsys): assert ended(monkeypatch, capsys, KeyboardInterrupt())[0] == 130


def test_a_usage_error_is_escaped(capsys):
    with pytest.raises(SystemExit) as end: cli.main(['run', '--a\x1b[31m'])
    assert end.value.code == 2 and is_one_line(capsys.readouterr().err)


def test_what_a_run_says_is_escaped(monkeypatch, capsys, tmp_path):
    from yolov10_qat.runs.folder import record_failure
    def crashed(entered): return record_failure(entered.root, 'ValueError', 'class \x1b[31mred'), 1
    monkeypatch.setattr('yolov10_qat.pipeline.launch.launch', crashed)
    with pytest.raises(SystemExit) as end: cli.main(['demo', '--run-root', str(tmp_path/'run')])
    err = capsys.readouterr().err
    assert end.value.code == 1 and is_one_line(err) and '\\x1b[31mred' in err


def piped(*words):
    "Status and errors of a command whose reader has gone before it says anything."
    reader, writer = os.pipe()
    os.close(reader)
    try: done = subprocess.run([sys.executable, '-m', 'yolov10_qat', *words], stdout=writer, stderr=subprocess.PIPE,
                               text=True, timeout=300)
    finally: os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize('words', [['--help'], ['run', '--help'], ['--version'],
                                   ['checkpoint', 'show', str(Path(__file__).parent/'examples'/'checkpoint-v1.pt')]],
                         ids=lambda w: ' '.join(w[:2]))
def test_nobody_reads(words): assert piped(*words) == (0, '')


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    code, err = ended(monkeypatch, capsys, BrokenPipeError(32, 'Broken pipe'))
    assert code == 1 and 'Broken pipe' in err


def test_a_run_goes_on_when_nobody_reads(tmp_path, monkeypatch):
    "What it notes on the way cannot be said, and that is all."
    from yolov10_qat.pipeline.launch import Bar
    class Closed:
        def write(self, _): raise BrokenPipeError(32, 'Broken pipe')
        def flush(self): raise BrokenPipeError(32, 'Broken pipe')
        def isatty(self): return True
    monkeypatch.setattr(sys, 'stdout', Closed())
    bar = Bar(Closed())
    for i in range(3): bar.show(dict(what='train', done=i, total=3), ['a note']*i)
    bar.close()


def test_the_working_folder_is_not_searched(tmp_path):
    "Nor with `python -m`."
    for name in ('ultralytics', 'torch', 'typer'):
        (tmp_path/name).mkdir()
        (tmp_path/name/'__init__.py').write_text('raise RuntimeError("this is not meant")')
    done = subprocess.run([sys.executable, '-m', 'yolov10_qat', 'run', '--run-root', 'run', '--coco-root', 'nowhere'],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and 'no COCO root' in done.stderr, done.stderr
    assert RunConfig(run_root='a').run_root == 'a'
