"What a user installs: the wheel, from this tree, where no checkout is in sight; in the slow tests with what it says it needs."
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from bounded import bounded
from conftest import REPOSITORY, command

RUN = ['run', '--profile', 'demo', '--imgsz', 64, '--epochs', 1, '--batch', 2, '--train-max-images', 4, '--val-max-images', 4,
       '--run-root', 'r']


@pytest.fixture(scope='session')
def wheel(once):
    "Built from tracked and new files, not from what lies about."
    def build(folder):
        tree = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=REPOSITORY, capture_output=True,
                              text=True, check=True).stdout.split('\n')
        for name in filter(None, tree):
            if not (REPOSITORY/name).is_file(): continue
            (folder/'tree'/name).parent.mkdir(parents=True, exist_ok=True)
            (folder/'tree'/name).write_bytes((REPOSITORY/name).read_bytes())
        done = bounded([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w',
                        folder/'dist', folder/'tree'])
        assert done.returncode == 0, done.stderr
    file, = (once('wheel', build)/'dist').glob('*.whl')
    return file


def test_wheel_works_in_an_empty_folder(wheel, tmp_path):
    "Laid out as an installer would, with the data and weights it brings."
    zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    (tmp_path/'empty').mkdir()
    where = 'import yolov10_qat; print(yolov10_qat.__file__)'
    environment = {'PYTHONPATH': str(tmp_path/'site'), 'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)}
    found = bounded([sys.executable, '-c', where], cwd=tmp_path/'empty', env=environment).stdout
    assert found.startswith(str(tmp_path/'site'))
    done = command(*RUN, cwd=tmp_path/'empty', env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path/'empty/r/report.html').is_file() and 'commit' in (tmp_path/'empty/r/run_summary.json').read_text()


def requirements():
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(REPOSITORY/'settings.ini', encoding='utf-8')
    return settings['DEFAULT']['requirements'].split()


def oldest(names):
    "Constraints: the first release line that is promised of each, `torch>=2.9` as `torch==2.9.*`."
    promised = dict(re.match(r'([\w-]+)>=([\d.]+)', r).groups() for r in requirements() if '>=' in r)
    return [f'{name}=={promised[name]}.*' for name in names]


def test_oldest_is_what_is_promised():
    assert [line.rpartition('.')[0].replace('==', '>=') for line in oldest(['torch', 'torchvision'])] == [
        r for r in requirements() if r.startswith('torch')]


@pytest.mark.slow
@pytest.mark.parametrize('python, constraints', [('python3.12', []), (sys.executable, oldest(['torch', 'torchvision']))],
                         ids=['python3.12', 'oldest-torch'])
def test_wheel_with_what_it_needs(python, constraints, wheel, tmp_path):
    "Into an empty environment, by pip; then the command runs with nothing of this checkout."
    if not shutil.which(python): pytest.skip(f'no {python} on this machine')
    (tmp_path/'constraints.txt').write_text('\n'.join(constraints))
    (tmp_path/'empty').mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'VIRTUAL_ENV'))}

    def do(*words, limit=1200):
        done = bounded(words, limit, cwd=tmp_path/'empty', env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
    do(python, '-m', 'venv', tmp_path/'env')
    do(tmp_path/'env/bin/pip', 'install', '--quiet', '-c', tmp_path/'constraints.txt', wheel, limit=5400)
    do(tmp_path/'env/bin/pip', 'check')
    for line in constraints:
        name, version = line.removesuffix('*').split('==')
        assert do(tmp_path/'env/bin/python', '-c', f'import {name}; print({name}.__version__)').startswith(version)
    do(tmp_path/'env/bin/yolov10-qat', '--version')
    do(tmp_path/'env/bin/yolov10-qat', *RUN)
    assert (tmp_path/'empty/r/report.html').is_file()
