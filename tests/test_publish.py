"Publishing: what is refused, what is replaced, what is marked, and a record whose format is kept."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import command
from fake_run import make_run
from yolov10_qat.core.config import load_config, save_config
from yolov10_qat.core.files import RunLock
from yolov10_qat.pipeline.publish import RECORD, RECORD_VERSION, PublishError, check_place, machine_paths, publish

EXAMPLES = Path(__file__).parent/'examples'


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with runs in it; figures are not drawn."
    monkeypatch.setattr('yolov10_qat.report.page._draw_all', lambda *_: {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(root, *pieces, checkpoints=()):
    with pytest.raises(PublishError) as caught: publish(root, 'out', checkpoints)
    for piece in pieces: assert piece in str(caught.value)
    assert not list(Path('reports').glob('*'))


def test_a_running_run_is_refused(here):
    root = make_run(here/'run')
    lock = RunLock(root)
    code = f"from yolov10_qat.pipeline.publish import publish; publish({str(root)!r}, 'out', [])"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    lock.release()
    assert 'is in use by process' in done.stderr and 'publish it when it has ended' in done.stderr and not (
        here/'reports').exists()
    assert publish(root, 'out', []).is_dir()


def test_an_incomplete_run_is_refused_or_marked(here):
    root = make_run(here/'run', stage='training')
    refuse(root, 'is incomplete', '--incomplete')
    text = (publish(root, 'out', [], incomplete=True)/'README.md').read_text()
    assert text.splitlines()[2].startswith('> **INCOMPLETE.**')
    assert 'INCOMPLETE.' not in (publish(make_run(here/'whole'), 'whole', [])/'README.md').read_text().splitlines()[2]


def test_a_checkpoint_that_fails_is_not_published(here):
    # the made-up run has files of zeros
    refuse(make_run(here/'run'), 'best.pt', 'fails its verification', checkpoints=['best'])


def test_a_folder_of_something_else_stays(here):
    root, out = make_run(here/'run'), here/'reports'/'out'
    out.mkdir(parents=True)
    (out/'mine.txt').write_text('mine')
    with pytest.raises(PublishError, match='is no publication'): publish(root, 'out', [])
    assert [p.name for p in out.iterdir()] == ['mine.txt']


def test_only_the_same_run_replaces_and_only_what_nobody_touched(here):
    first, other = make_run(here/'run', run_id='one'), make_run(here/'other', run_id='two')
    place = publish(first, 'out', [])
    with pytest.raises(PublishError, match='contains run one, this is run two'): publish(other, 'out', [])
    readme = (place/'README.md').read_text()
    (place/'README.md').write_text(readme + 'my remark')
    with pytest.raises(PublishError, match=r'was changed since it was published \(README.md\)'):
        publish(first, 'out', [])
    (place/'README.md').write_text(readme)
    (place/'run_summary.json').unlink()  # what is missing is brought back
    assert (publish(first, 'out', [])/'run_summary.json').is_file() and not [
        p for p in (here/'reports').iterdir() if p.name != 'out']


def test_a_failure_leaves_the_old_publication(here, monkeypatch):
    root = make_run(here/'run')
    place = publish(root, 'out', [])
    before = {p: p.read_bytes() for p in (here/place).rglob('*') if p.is_file()}
    monkeypatch.setattr('yolov10_qat.pipeline.publish.render', lambda *_: 1/0)
    with pytest.raises(ZeroDivisionError): publish(root, 'out', [])
    assert before == {p: p.read_bytes() for p in (here/'reports').rglob('*') if p.is_file()}


def test_nothing_tells_where_it_was_made(here):
    place = publish(make_run(here/'run', method='ema+qc'), 'out', [])
    for file in place.rglob('*'):
        if file.is_file(): assert str(here) not in file.read_text(encoding='utf-8', errors='ignore'), file.name


def test_command(tmp_path):
    root = make_run(tmp_path/'run')
    for words, said in ((['--name', '../up'], 'no plain folder name'),
                        (['--name', 'out', '--checkpoints', 'bets'], "did you mean 'best'"),
                        (['--name', 'out', '--checkpoints', 'every:7'], 'fits no snapshot')):
        done = command('publish', root, *words, cwd=tmp_path)
        assert done.returncode == 1 and done.stderr.count('\n') == 1 and said in done.stderr
    done = command('publish', root, '--name', 'out', '--checkpoints', 'none', cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == f'published: {tmp_path/"reports/out/README.md"}' and not done.stderr
    save_config(load_config(root/'run_config.yaml').model_copy(update=dict(coco_root='/data/of/mine/coco')), root/'run_config.yaml')
    done = command('publish', root, '--name', 'out', '--checkpoints', 'none', cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.startswith('note: the publication shows coco_root=/data/of/mine/coco;')
    assert machine_paths(tmp_path/'reports/out') == ['coco_root=/data/of/mine/coco']


def test_record_of_the_first_version(tmp_path):
    record = json.loads((EXAMPLES/'publication-v1.json').read_text())
    assert record['format_version'] == RECORD_VERSION == 1
    (tmp_path/'out').mkdir()
    shutil.copy(EXAMPLES/'publication-v1.json', tmp_path/'out'/RECORD)
    check_place(tmp_path/'out', record['run_id'])
    with pytest.raises(PublishError, match='contains run'): check_place(tmp_path/'out', 'another')
