"The launcher in places as people have them: folders with names of libraries, hubs, batch systems, threads, notebooks."
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from small_notebooks import ENTER, said, write
from yolov10_qat.core.config import RunConfig, load_config
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.core.layout import Layout
from yolov10_qat.pipeline import entrance, launch
from yolov10_qat.runs.summary import load_summary


def run_cells(folder, *cells, out='out.ipynb', **parameters):
    kernel = launch.execute(write(folder/'template.ipynb', *cells), parameters, folder/out)
    assert kernel.error is None, kernel.last_words
    return said(folder/out)


FOREIGN = ('ultralytics', 'torch', 'json', 'pandas', 'yolov10_qat', 'sitecustomize')
WHERE = '''import importlib.util, sys, json
for name in ('ultralytics', 'torch', 'json', 'pandas', 'yolov10_qat'): print(importlib.util.find_spec(name).origin)
print(sys.executable)'''


@pytest.mark.parametrize('way', ['working folder', 'PYTHONPATH', 'script folder'])
def test_what_lies_around_is_not_imported(way, tmp_path, monkeypatch):
    around = tmp_path/'around'
    for name in FOREIGN:
        (around/name).mkdir(parents=True)
        (around/name/'__init__.py').write_text('raise RuntimeError("this is not meant")')
    (around/'json.py').write_text('raise RuntimeError("this is not meant")')
    if way == 'working folder': monkeypatch.chdir(around)
    if way == 'PYTHONPATH': monkeypatch.setenv('PYTHONPATH', str(around))
    if way == 'script folder': monkeypatch.syspath_prepend(around)
    *origins, python = run_cells(tmp_path, WHERE).splitlines()
    assert not [o for o in origins if str(tmp_path) in o] and python == sys.executable
    assert origins[-1] == launch.yolov10_qat.__file__  # also where the install is an editable one


def test_the_kernel_is_this_python(tmp_path, monkeypatch):
    "Whatever a hub calls python3."
    spec = tmp_path/'site'/'kernels'/'python3'
    spec.mkdir(parents=True)
    (spec/'kernel.json').write_text(json.dumps(dict(argv=['/bin/false', '{connection_file}'], language='python',
                                                    display_name='Python 3 (site)')))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'site'))
    assert run_cells(tmp_path, 'import sys; print(sys.executable)') == f'{sys.executable}\n'


@pytest.mark.parametrize('name', ['{method}', '{', '}{', '{0}', '{{x}}', '%s', 'a b'])
def test_a_folder_name_is_a_folder_name(name, tmp_path):
    (tmp_path/name).mkdir()
    assert run_cells(tmp_path/name, 'print(method)', method='baseline') == 'baseline\n'
    assert sorted(os.listdir(tmp_path)) == [name]


def test_a_template_in_a_folder_with_braces(tmp_path):
    folder = tmp_path/'{prefix}'
    folder.mkdir()
    launch.execute(write(folder/'t.ipynb', 'print(1)'), dict(prefix='x'), tmp_path/'out.ipynb')
    assert said(tmp_path/'out.ipynb') == '1\n'


@pytest.mark.parametrize('there', ['elsewhere', 'nowhere'])
def test_a_long_temporary_folder(there, tmp_path, monkeypatch):
    long = tmp_path.joinpath(*['some-rather-long-name']*6)
    long.mkdir(parents=True)
    monkeypatch.setattr(launch.tempfile, 'tempdir', str(long))
    if there == 'nowhere': monkeypatch.setattr(launch, '_takes_sockets', lambda folder: False)
    kernel = launch.execute(write(tmp_path/'t.ipynb', 'print(2)'), {}, tmp_path/'out.ipynb')
    assert kernel.error is None and said(tmp_path/'out.ipynb') == '2\n'
    assert (kernel.manager.transport, kernel.manager.ip) == (('tcp', '127.0.0.1') if there == 'nowhere' else ('ipc', kernel.manager.ip))
    assert not list(long.iterdir())


def test_several_threads(tmp_path):
    "Each has its own progress, lock and environment; signals stay with the main thread."
    before = signal.getsignal(signal.SIGINT)
    def one(i):
        (tmp_path/str(i)).mkdir()
        return run_cells(tmp_path/str(i), 'import os, time; time.sleep(1); print(i, os.environ["YOLOV10_QAT_PROGRESS"])', i=i)
    with ThreadPoolExecutor(2) as pool: texts = list(pool.map(one, range(2)))
    assert [t.split()[0] for t in texts] == ['0', '1'] and texts[0].split()[1] != texts[1].split()[1]
    assert signal.getsignal(signal.SIGINT) is before
    assert 'YOLOV10_QAT_PROGRESS' not in os.environ


def test_a_loop_is_running(tmp_path):
    "As in a notebook."
    async def cell(): return run_cells(tmp_path, 'print(3)')
    assert asyncio.run(cell()) == '3\n'


# --- how it ends -----------------------------------------------------------------------------------------------------

class Stuck(threading.Thread):
    "A heartbeat that never ends."
    def __init__(self):
        super().__init__(daemon=True)
        self._exit, self.closed, self.joined = threading.Event(), False, []
        self.start()
    def run(self): threading.Event().wait()
    def join(self, timeout=None):
        self.joined.append(timeout)
        assert timeout is not None, 'this would be for ever'
        super().join(timeout)
    def close(self): self.closed = True


def test_a_heartbeat_that_never_ends_is_left():
    stuck = Stuck()
    launch.end_heartbeat(stuck, .3)
    assert stuck._exit.is_set() and not stuck._running and not stuck.closed and stuck.joined


def test_a_heartbeat_that_is_just_starting_is_ended():
    "It says that it runs after it was told to end; Jupyter's own `stop` would wait for ever."
    class Starting(Stuck):
        def run(self):
            time.sleep(.2)
            self._running = True
            while self._running: time.sleep(.01)
    starting = Starting()
    launch.end_heartbeat(starting, 60)
    assert not starting.is_alive() and starting.closed


def test_the_launchers_client_ends_its_heartbeat_so():
    client = launch._client()
    assert vars(client.hb_channel_class.klass)['stop'] is launch.end_heartbeat  # its own, not that of conftest.py


def test_a_kernel_that_ends_unnoticed_is_not_waited_for(tmp_path, monkeypatch):
    "Whatever the thread that talks to it waits for."
    monkeypatch.setattr(launch, 'GRACE_S', .2)
    def execute(self, *_):
        self.process = subprocess.Popen([sys.executable, '-c', ''])
        threading.Event().wait()
    monkeypatch.setattr(launch.Kernel, 'execute', execute)
    kernel = launch.execute(tmp_path/'t.ipynb', {}, tmp_path/'out.ipynb')
    assert str(kernel.error) == 'the notebook kernel ended unnoticed'


def test_a_kernel_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, '_KERNEL', 'raise SystemExit("no such library")')
    monkeypatch.setattr(launch, 'TEMPLATE', write(tmp_path/'t.ipynb', ENTER))
    summary, code = launch.launch(entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root='demo')))
    assert code == 1 and summary.error.message
    assert 'no such library' in Layout(tmp_path/'run').log.read_text()


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    "A run that sleeps once it has entered its folder."
    cells = [ENTER, f'open({str(tmp_path/"up")!r}, "w").close(); import time; time.sleep(20)']
    monkeypatch.setattr(launch, 'TEMPLATE', write(tmp_path/'t.ipynb', *cells))
    return entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root='demo'))


def signal_when(file, number):
    def wait():
        while not file.exists(): time.sleep(.05)
        os.kill(os.getpid(), number)
    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_record(number, sleeping, tmp_path):
    old = signal.signal(number, lambda *_: None)
    mine = signal.getsignal(number)
    try:
        signal_when(tmp_path/'up', number)
        summary, code = launch.launch(sleeping)
        assert signal.getsignal(number) is mine
    finally: signal.signal(number, old)
    assert (code, summary.status, summary.error.type) == (130, 'incomplete', 'KeyboardInterrupt')
    page = Layout(tmp_path/'run').report.read_text()
    assert '--resume' in page
    assert 'KeyboardInterrupt' in Layout(tmp_path/'run').notebook.read_text()


def test_nohup_is_respected(tmp_path):
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_when(tmp_path/'up', signal.SIGHUP)
        cell = f'open({str(tmp_path/"up")!r}, "w").close(); import time; time.sleep(1); print("done")'
        assert run_cells(tmp_path, cell) == 'done\n'
    finally: signal.signal(signal.SIGHUP, old)


def test_an_interrupt_before_the_kernel_is_up(tmp_path, monkeypatch):
    real = launch._handlers
    def at_once(kernel):
        old = real(kernel)
        kernel.interrupt()
        return old
    monkeypatch.setattr(launch, '_handlers', at_once)
    kernel = launch.execute(write(tmp_path/'t.ipynb', f'open({str(tmp_path/"up")!r}, "w")'), {}, tmp_path/'out.ipynb')
    assert kernel.interrupted and kernel.process is None and not (tmp_path/'up').exists()


# --- what is refused before a folder is made ---------------------------------------------------------------------------

@pytest.mark.parametrize('limits, new', [((64, 64), None), ((64, 4096), 256), ((1024, 4096), None), ((-1, -1), None)])
def test_few_open_files(limits, new, monkeypatch):
    raised = []
    monkeypatch.setattr(entrance.resource, 'getrlimit', lambda _: limits)
    monkeypatch.setattr(entrance.resource, 'setrlimit', lambda _, pair: raised.append(pair[0]))
    if limits[1] == 64:
        with pytest.raises(OSError, match='a process may open 64 files here .* .ulimit -n'): entrance.check_limits()
    else: entrance.check_limits()
    assert raised == ([new] if new else [])


def test_few_open_files_on_the_command_line(tmp_path):
    code = f'ulimit -n 64; exec {sys.executable} -m yolov10_qat demo --run-root {tmp_path}/run'
    done = subprocess.run(['bash', '-c', code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'ulimit -n' in done.stderr
    assert not (tmp_path/'run').exists()


DATA = {
    'nowhere':        (lambda root: root/'nowhere', 'no COCO root'),
    'no images':      (lambda root: (root/'val2017').rename(root/'other') and root, 'no image folder'),
    'no annotations': (lambda root: (root/'annotations'/'instances_val2017.json').unlink() or root, 'no annotation file'),
}

@pytest.mark.parametrize('case', DATA)
def test_data_is_looked_for_first(case, tmp_path):
    "Before the weights, which are not there either; and no folder is left."
    from tiny import tiny_coco
    damage, piece = DATA[case]
    root = damage(tiny_coco(tmp_path/'coco'))
    with pytest.raises(FileNotFoundError, match=piece):
        entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root=root, base=tmp_path/'lost.pt'))
    assert not (tmp_path/'run').exists()


# --- yes and no as text --------------------------------------------------------------------------------------------------

NO, YES = ('False', 'false', '0', 'no', 'off', False, 0), ('True', 'true', '1', 'yes', 'on', True, 1)
WRONG = ('maybe', '', 'None', None, '2', 'resume')


@pytest.mark.parametrize('word', NO)
def test_a_word_that_says_no(word, tmp_path):
    entrance.enter(entrance.resolve(dict(run_root=tmp_path/'run', coco_root='demo'), word), word).lock.release()
    variables = RunConfig(run_root=tmp_path/'run', coco_root='demo', seed=3, method='ema').model_dump() | dict(quantize=str(word))
    config = entrance.config_from(variables, word)
    assert (config.seed, config.quantize) == (3, False)
    (tmp_path/'run'/'evaluation').mkdir()
    with pytest.raises(FileExistsError, match='--resume'): entrance.enter(config, word)


@pytest.mark.parametrize('word', YES)
def test_a_word_that_says_yes(word, tmp_path):
    entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root='demo', seed=3)).lock.release()
    (tmp_path/'run'/'evaluation').mkdir()
    defaults = {k: f.default for k, f in RunConfig.model_fields.items()} | dict(run_root=tmp_path/'run')
    assert entrance.config_from(defaults, word).seed == 3
    entered = entrance.enter(entrance.resolve(dict(run_root=tmp_path/'run'), word), word)
    assert entered.resume is True and load_config(Layout(tmp_path/'run').config).seed == 3
    entered.lock.release()


@pytest.mark.parametrize('word', WRONG)
def test_any_other_word_is_refused(word, tmp_path):
    settings = dict(run_root=tmp_path/'run', coco_root='demo')
    for entry in (lambda: entrance.resolve(settings, word), lambda: entrance.enter(RunConfig(**settings), word),
                  lambda: entrance.config_from(RunConfig(**settings).model_dump(), word),
                  lambda: launch.start(resume=word, **settings)):
        with pytest.raises(ConfigError, match='must be true or false'): entry()
    assert not (tmp_path/'run').exists()
    with pytest.raises(ConfigError, match='quantize='): RunConfig(quantize=word, **settings)


def test_the_summary_is_untouched_by_a_refusal(tmp_path):
    entrance.enter(RunConfig(run_root=tmp_path/'run', coco_root='demo')).lock.release()
    before = load_summary(tmp_path/'run')
    with pytest.raises(ConfigError): launch.start(resume='maybe', run_root=tmp_path/'run')
    assert load_summary(tmp_path/'run') == before and not Path(tmp_path/'run'/'run.log').exists()
