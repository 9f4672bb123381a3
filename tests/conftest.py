"What several tests share: tiny data, a way to call the command, and the folder with real data where there is one."
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.channels import HBChannel

from yolov10_qat.pipeline.launch import end_heartbeat

sys.path.insert(0, str(Path(__file__).parent))
from places import ROOT as REPOSITORY  # noqa: E402, F401
from places import SHARED  # noqa: E402
from tiny import tiny_base, tiny_coco  # noqa: E402


def command(*words, **kw):
    "Run `yolov10-qat WORDS`; its status, stdout and stderr."
    return subprocess.run([sys.executable, '-m', 'yolov10_qat', *map(str, words)], capture_output=True, text=True,
                          timeout=600, **kw)


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
            '--lr0', 1e-3, '--ema-decay', .5, '--ema-tau', 2]


@pytest.fixture(scope='session')
def shared():
    "Real photos and weights; a checkout without them skips what needs them, the tiny data covers the same path."
    if not SHARED.is_dir(): pytest.skip('no ../shared beside this checkout')
    return SHARED


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take minutes, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; runs with --slow')
    HBChannel.stop = end_heartbeat  # Jupyter's own may wait for ever


def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'): return
    for item in items:
        if item.get_closest_marker('slow'): item.add_marker(pytest.mark.skip(reason='takes minutes: pytest --slow'))
