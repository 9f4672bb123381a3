"What a command imports before it answers: a budget of names. Time depends on the machine, names do not."
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fake_run import make_run
from yolov10_qat.checkpoint.format import describe_checkpoint
from yolov10_qat.cli import app

EXAMPLE = Path(__file__).parent/'examples'/'checkpoint-v1.pt'

# words to a checked configuration
SHELL = {'annotated_doc', 'annotated_types', 'pydantic', 'pydantic_core', 'shellingham', 'typer', 'typing_extensions',
         'typing_inspection', 'yaml'}
# help in panels
HELP = SHELL | {'attr', 'markdown_it', 'mdurl', 'pygments', 'rich'}
# and a look at COCO-format data
DATA = SHELL | {'PIL', 'msgspec', 'numpy'}
TRAINING = {'torch', 'torchvision', 'ultralytics', 'brevitas', 'onnx', 'onnxruntime', 'pycocotools', 'cv2'}

PROBE = '''
import contextlib, io, json, sys
before = set(sys.modules)
from yolov10_qat.cli import main
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try: main()
    except SystemExit as end: status = end.code
found = {n.partition('.')[0] for n, m in sys.modules.items() if n not in before and getattr(m, '__spec__', None)}
print(json.dumps([status, out.getvalue(), err.getvalue(), sorted(n for n in found - sys.stdlib_module_names - {'yolov10_qat'} if n[0] != '_')]))
'''

def answer(*words, cwd=None):
    "Exit status, output, errors and the packages that were imported, of a command in a process of its own."
    done = subprocess.run([sys.executable, '-c', PROBE, *map(str, words)], capture_output=True, text=True, timeout=600,
                          cwd=cwd)
    assert done.returncode == 0, done.stderr
    status, out, err, roots = json.loads(done.stdout)
    return status, out, err, set(roots)


def commands(group=typer.main.get_command(app), words=()):
    "All commands, and the groups they are in."
    yield words
    for name, command in getattr(group, 'commands', {}).items(): yield from commands(command, (*words, name))

@pytest.mark.parametrize('words', [*commands()], ids=lambda w: ' '.join(w) or 'program')
def test_help(words):
    status, out, err, roots = answer(*words, '--help')
    assert status == 0 and out.lstrip().startswith(' '.join(('Usage: yolov10-qat', *words))) and not err
    assert roots == HELP


FREE = ['--coco-root', 'nowhere', '--out', 'free']
REFUSED = {  # words, a piece of the answer, exit status, packages
    'no command':        ([], 'Missing command', 2, SHELL),
    'command':           (['runn'], "No such command 'runn'", 2, SHELL),
    'flag':              (['run', '--epoch', 3], 'No such option: --epoch', 2, SHELL),
    'missing flag':      (['dataset', '--coco-root', 'coco'], "Missing option '--out'", 2, SHELL),
    'bits':              (['run', '--weight-bits', 9], 'weight_bits=9', 1, SHELL),
    'method':            (['run', '--method', 'emma'], "did you mean 'ema'?", 1, SHELL),
    'configuration':     (['run', '--config', 'nowhere.yaml'], 'no configuration file nowhere.yaml', 1, SHELL),
    'scratch epochs':    (['scratch', 'qat-w4a16', '--epochs', 0], 'epochs=0', 1, SHELL),
    'run root':          (['run', '--run-root', '.'], 'exists and is not empty', 1, SHELL),
    'demo run root':     (['demo', '--run-root', '.'], 'exists and is not empty', 1, SHELL),
    'resume what?':      (['run', '--resume'], '--resume needs --run-root', 2, SHELL),
    'nothing to resume': (['run', '--resume', '--run-root', 'nowhere'], 'contains no run to resume', 1, SHELL),
    'gate':              (['run', '--variant', 'yolo10m'], 'yolo10m may not start', 1, SHELL),
    'data':              (['dataset', *FREE], 'no COCO root', 1, DATA | {'tqdm'}),
    'eval file':         (['eval', 'nowhere.onnx', '--coco-root', '.'],
                          'no checkpoint nowhere.onnx; that folder has torn.pt, whole.pt', 1, SHELL),
    'eval torn file':    (['eval', 'torn.pt', '--coco-root', '.'], 'was cut off', 1, SHELL),
    'eval weights':      (['eval', 'whole.pt', '--coco-root', '.', '--weights', 'mean'], 'use raw, ema or best', 1,
                          SHELL),
    'eval data':         (['eval', 'whole.pt', '--coco-root', '.'], 'no image folder', 1, DATA),
    'sensitivity file':  (['sensitivity', 'hole.pt', *FREE], "did you mean 'whole.pt'?", 1, SHELL),
    'sensitivity data':  (['sensitivity', 'whole.pt', *FREE], 'no COCO root', 1, DATA),
    'ptq method':        (['ptq', 'whole.pt', *FREE, '--method', 'x'], "PTQ method 'x' is unknown", 1, SHELL),
    'ptq file':          (['ptq', 'hole.pt', *FREE], "did you mean 'whole.pt'?", 1, SHELL),
    'ptq data':          (['ptq', 'whole.pt', *FREE], 'no COCO root', 1, DATA),
    'export format':     (['export', 'whole.pt', '--out', 'x.onnx', '--format', 'onnx'], "--format 'onnx' is unknown",
                          1, SHELL),
    'export opset':      (['export', 'whole.pt', '--out', 'x.onnx', '--format', 'onnx-int4', '--opset', 17],
                          'needs an opset from 21', 1, SHELL),
    'export out':        (['export', 'whole.pt', '--out', 'x'], 'must end in .safetensors', 1, SHELL),
    'export file':       (['export', 'hole.pt', '--out', 'x.safetensors'], 'no checkpoint hole.pt', 1, SHELL),
    'export torn file':  (['export', 'torn.pt', '--out', 'x.safetensors'], 'was cut off', 1, SHELL),
    'show nothing':      (['checkpoint', 'show', 'hole.pt'], 'no checkpoint hole.pt', 1, SHELL),
    'show a torn file':  (['checkpoint', 'show', 'torn.pt'], 'was cut off', 1, SHELL),
    'verify torn file':  (['checkpoint', 'verify', 'torn.pt'], 'was cut off', 1, SHELL),
    'report':            (['report', 'nowhere'], 'is this a run root?', 1, SHELL),
    'publish':           (['publish', 'nowhere', '--name', 'x'], 'is this a run root?', 1, SHELL),
    'summarize':         (['summarize', 'nowhere', '--out', 'free'], 'no runs at', 1, SHELL | {'tqdm'}),
}

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Folder with a whole checkpoint and a torn one."
    folder = tmp_path_factory.mktemp('place')
    (folder/'whole.pt').write_bytes(EXAMPLE.read_bytes())
    (folder/'torn.pt').write_bytes(EXAMPLE.read_bytes()[:-99])
    return folder

@pytest.mark.parametrize('case', REFUSED)
def test_refusal(case, place):
    words, piece, code, budget = REFUSED[case]
    status, out, err, roots = answer(*words, cwd=place)
    assert status == code and err.count('\n') == 1 and err.startswith('error: ') and piece in err, err
    assert roots == budget
    assert sorted(p.name for p in place.iterdir()) == ['torn.pt', 'whole.pt']


def test_version(): assert answer('--version')[3] == SHELL


def test_show(place):
    status, out, err, roots = answer('checkpoint', 'show', 'whole.pt', cwd=place)
    assert status == 0 and not err
    told = {line[:16].strip(): line[17:] for line in out.splitlines()}
    assert told == {k: str(v) for k, v in (describe_checkpoint(place/'whole.pt') | {'file': 'whole.pt'}).items()}
    assert roots == SHELL


def test_report(tmp_path):
    "Tables and figures need their libraries, but a report computes nothing."
    status, out, err, roots = answer('report', make_run(tmp_path/'r'))
    assert status == 0 and out.startswith('report: ') and {'pandas', 'matplotlib'} <= roots
    assert not roots & TRAINING


def test_publish_of_an_unfinished_run(tmp_path):
    status, out, err, roots = answer('publish', make_run(tmp_path/'r', stage='training'), '--name', 'x', cwd=tmp_path)
    assert status == 1 and 'is incomplete' in err and not roots & TRAINING


def test_a_heavy_import_is_seen(place):
    "The budget can be overdrawn: a verification builds the model."
    assert {'torch', 'ultralytics', 'brevitas'} <= answer('checkpoint', 'verify', 'whole.pt', cwd=place)[3]
