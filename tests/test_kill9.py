"A run that is killed at twenty moments ends as one that was left alone; the moments are chosen by kill9.py."
import subprocess
import sys

import pytest

from places import ROOT


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kill_9_at_twenty_moments(tmp_path):
    done = subprocess.run([sys.executable, ROOT/'tests'/'kill9.py', tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'bit for bit' in done.stdout
