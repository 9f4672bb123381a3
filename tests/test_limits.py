"No test waits without end: every test has a limit that says where it hung, and a command ends with its own."
import subprocess
import sys
import time

import psutil
import pytest

from bounded import bounded

HANGS = '''
import threading, pytest
def stuck(): threading.Event().wait()
@pytest.mark.timeout(1)
def test_hangs():
    thread = threading.Thread(target=stuck, daemon=True)
    thread.start()
    thread.join()
def test_goes_on(): pass
'''


def test_every_test_has_a_limit(pytestconfig):
    assert float(pytestconfig.getini('timeout')) == 900 and pytestconfig.pluginmanager.hasplugin('timeout')
    assert 0 < float(pytestconfig.getini('faulthandler_timeout')) < 900


@pytest.mark.parametrize('more', [[], ['--numprocesses', '1']], ids=['alone', 'xdist'])
def test_one_that_hangs_says_where_and_the_others_go_on(more, tmp_path):
    (tmp_path/'test_it.py').write_text(HANGS)
    done = bounded([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-o', 'faulthandler_timeout=0.5', *more,
                    tmp_path/'test_it.py'], cwd=tmp_path)
    assert done.returncode == 1 and '1 failed, 1 passed' in done.stdout, done.stdout
    assert 'Timeout' in done.stdout and 'in stuck' in done.stdout+done.stderr  # the other thread's stack, too


def test_a_command_ends_with_its_limit_and_so_does_what_it_started(tmp_path):
    "The child holds both streams of its parent open: waiting for them to close would be waiting for the child."
    note = tmp_path/'pid'
    code = (f"import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); open({str(note)!r}, 'w').write(str(p.pid)); "
            'p.wait()')
    with pytest.raises(subprocess.TimeoutExpired): bounded([sys.executable, '-c', code], timeout_s=5)
    child = int(note.read_text())
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE: time.sleep(.05)


def test_a_command_tells_both_streams():
    done = bounded([sys.executable, '-c', 'import sys; print("a"); print("b", file=sys.stderr); sys.exit(3)'])
    assert (done.returncode, done.stdout, done.stderr) == (3, 'a\n', 'b\n')


def test_a_folder_is_made_once_and_a_failed_one_again(once):
    "By whichever worker comes first; the other finds it."
    made = []
    def make(folder):
        folder.mkdir()
        made.append(folder)
        if len(made) == 1: raise ValueError('the first time')
        (folder/'x').write_text('whole')
    with pytest.raises(ValueError, match='the first time'): once('of-test-limits', make)
    folders = {once('of-test-limits', make) for _ in range(3)}
    assert len(made) == 2 and folders == {made[1]} and (made[1]/'x').read_text() == 'whole'
