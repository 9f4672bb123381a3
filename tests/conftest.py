"What several tests share: tiny data, runs, a way to call the command, and the folder with real data where there is one."
import os
import shutil
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
from filelock import FileLock
from jupyter_client.channels import HBChannel

from yolov10_qat.pipeline.launch import end_heartbeat

sys.path.insert(0, str(Path(__file__).parent))
from bounded import bounded  # noqa: E402
from notebooks import act  # noqa: E402
from places import ROOT as REPOSITORY  # noqa: E402, F401
from places import SHARED  # noqa: E402
from tiny import tiny_base, tiny_coco  # noqa: E402


def command(*words, env=None, **kw):
    "Run `yolov10-qat WORDS`; its status, stdout and stderr. With an environment of its own it is a new Python."
    return bounded([sys.executable, '-m', 'yolov10_qat', *words], env=env, **kw) if env else act(words, **kw)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    "Folder with `coco/`, four images a split, and `base.pt`, untrained."
    folder = tmp_path_factory.mktemp('tiny')
    tiny_coco(folder/'coco')
    tiny_base(folder/'base.pt')
    return folder


@pytest.fixture
def tiny_run(tiny):
    "Words of a run that takes seconds; give it a run root."
    return ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 3, '--batch', 2,
            '--lr0', 1e-3, '--method', 'ema', '--ema-decay', .5, '--ema-tau', 2]


@pytest.fixture(scope='session')
def shared():
    "Real photos and weights; a checkout without them skips what needs them, the tiny data covers the same path."
    if not SHARED.is_dir(): pytest.skip('no ../shared beside this checkout')
    return SHARED


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    "`once(name, make)`: a folder that `make(folder)` fills, once for all workers of a session. Read it; copy it to change it."
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ: base = base.parent

    def made(name, make):
        folder, done = base/name, base/f'{name}.done'
        with FileLock(base/f'{name}.lock'):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                make(folder)
                done.touch()
        return folder
    return made


DEMO_RUN = ['run', '--profile', 'demo', '--method', 'ema+qc', '--train-max-images', 64, '--val-max-images', 48,
            '--save-period', 1]

@pytest.fixture(scope='session')
def demo_run(once):
    "The demo on fewer scenes: the one run of the suite that starts from weights that know something, and learns."
    def make(folder):
        done = command(*DEMO_RUN, '--run-root', folder)
        assert done.returncode == 0, done.stderr
    return once('demo', make)


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take minutes, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; runs with --slow')
    HBChannel.stop = end_heartbeat  # Jupyter's own may wait for ever
    if not hasattr(config, 'workerinput'): own_scratch()


def own_scratch():
    "A folder for what notebooks, kernels and killed processes leave behind, gigabytes in all; removed when Python ends."
    outer = tempfile.gettempdir()
    os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', outer)  # folders of failed tests stay
    tempfile.tempdir = os.environ['TMPDIR'] = folder = tempfile.mkdtemp(prefix='yq')
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-1000)  # after those of multiprocessing, which look into it


# Minutes each; first, so that both workers end at the same time
LONGEST = ['test_documented_commands', 'notebook_runs[50_train/03', 'notebook_runs[90_pipeline/06', 'tutorial_runs[',
           'test_run_measures_on_training_images_and_keeps', 'notebook_runs[50', 'notebook_runs[80', 'notebook_runs[90', 'notebook_runs[60']
SLOW_S = 7200  # limit of a test that is marked slow


def rank(item): return next((i for i, piece in enumerate(LONGEST) if piece in item.nodeid), len(LONGEST))


def pytest_collection_modifyitems(config, items):
    items.sort(key=rank)
    for item in items:
        if not item.get_closest_marker('slow'): continue
        item.add_marker(pytest.mark.timeout(SLOW_S))
        if not config.getoption('--slow'): item.add_marker(pytest.mark.skip(reason='takes minutes: pytest --slow'))
