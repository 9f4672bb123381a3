"Command line, `start` and the run template go through one entrance: what they refuse they leave as it was, byte for byte."
import ast
import shutil
import sys

import pytest

from bounded import bounded
from conftest import command
from places import ROOT
from yolov10_qat.core.config import RunConfig, load_config
from yolov10_qat.core.layout import TEMPLATE, Layout
from yolov10_qat.pipeline import entrance
from yolov10_qat.runs.summary import Gate, load_summary


def tree(root):
    "Every file below a folder with its bytes."
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def by_command(root, resume, **given):
    flags = [w for k, v in given.items() for w in (f"--{k.replace('_', '-')}", v)]
    return command('run', '--run-root', root, *flags, *['--resume']*resume)


def by_start(root, resume, **given):
    code = f'from yolov10_qat.pipeline.launch import start; start(resume={resume}, run_root={str(root)!r}, **{given!r})'
    return bounded([sys.executable, '-c', code])


def by_template(root, resume, **given):
    words = [w for k, v in (given | dict(run_root=root, resume=resume)).items() for w in ('-p', k, str(v))]
    out = str(root.with_name(f'{root.name}-executed.ipynb'))
    return bounded([sys.executable, '-m', 'papermill', TEMPLATE, out, *words])


ENTRANCES = {'command': by_command, 'start': by_start, 'template': by_template}


@pytest.fixture(scope='module')
def finished(tiny, once):
    "A run that came to its end, with settings that are nobody's defaults."
    def make(root):
        done = by_command(root, False, base=tiny/'base.pt', coco_root=tiny/'coco', method='baseline', imgsz=64, epochs=1,
                          batch=2, seed=3)
        assert done.returncode == 0, done.stderr
    return once('entrances', make)


@pytest.fixture(params=ENTRANCES)
def enter_by(request): return ENTRANCES[request.param]


def test_what_is_not_said_is_what_the_run_has(enter_by, finished, tmp_path):
    root = tmp_path/'run'
    shutil.copytree(finished, root)
    stored = load_config(Layout(root).config).model_dump()
    done = enter_by(root, True)
    assert done.returncode == 0, done.stderr
    assert load_config(Layout(root).config).model_dump() == stored | {'run_root': str(root)}
    assert load_summary(root).status == 'completed-failed'  # untrained: it never scores above 0, and that is its end


def test_a_contradiction_is_refused(enter_by, finished):
    before = tree(finished)
    done = enter_by(finished, True, seed=5)
    assert done.returncode and 'seed=5 (it has 3)' in done.stderr
    assert tree(finished) == before


def test_a_finished_run_is_not_overwritten(enter_by, finished):
    before = tree(finished)
    done = enter_by(finished, False)
    assert done.returncode and 'continue it with --resume' in done.stderr
    assert tree(finished) == before


def test_the_gate_is_asked_in_one_place():
    callers = {file.relative_to(ROOT).as_posix() for file in (ROOT/'yolov10_qat').rglob('*.py')
               for node in ast.walk(ast.parse(file.read_text(encoding='utf-8')))
               if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'ask_gate'}
    # a plan asks for each point before anything starts, and again when smaller sizes have ended
    assert callers == {'yolov10_qat/pipeline/entrance.py', 'yolov10_qat/sweep/plan.py', 'yolov10_qat/sweep/sweep.py'}


def test_the_gate_is_asked_once(tmp_path, monkeypatch):
    asked = []
    def ask(config):
        asked.append(config.variant)
        return Gate(allowed=True, ungated=False, reasons=['it may start'])
    monkeypatch.setattr(entrance, 'ask_gate', ask)
    launcher = entrance.enter(RunConfig(variant='yolo10m', coco_root='demo', run_root=tmp_path/'run'))
    launcher.lock.release()
    monkeypatch.setenv(entrance.ENTERED_VARIABLE, launcher.run_id)
    entrance.enter(launcher.config).lock.release()  # as the kernel does
    monkeypatch.delenv(entrance.ENTERED_VARIABLE)
    entrance.enter(launcher.config, resume=True).lock.release()  # asked when the run was new
    assert asked == ['yolo10m'] and load_summary(launcher.root).gate.reasons == ['it may start']


def test_another_run_in_the_folder_is_not_taken_over(tmp_path, monkeypatch):
    "Between launcher and kernel somebody else may have been quicker."
    first = entrance.enter(RunConfig(coco_root='demo', run_root=tmp_path/'run'))
    first.lock.release()
    monkeypatch.setenv(entrance.ENTERED_VARIABLE, 'the id of a run that was here before')
    Layout(first.root).results.parent.mkdir(parents=True)
    with pytest.raises(FileExistsError, match='continue it with --resume'): entrance.enter(first.config)


def test_a_refusal_of_the_gate_makes_no_folder(tmp_path):
    done = command('run', '--variant', 'yolo10m', '--run-root', tmp_path/'run')
    assert done.returncode == 1 and 'yolo10m may not start' in done.stderr
    assert not (tmp_path/'run').exists()
