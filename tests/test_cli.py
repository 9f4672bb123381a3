"The command line: bad input ends in one line that says what, where and what to do, and leaves nothing that looks whole; and what the smaller commands print."
import json
import os
import re
import shutil
from copy import deepcopy
from html import unescape
from types import SimpleNamespace

import pytest
import torch
import typer
from ultralytics.nn.tasks import DetectionModel

from conftest import command
from tiny import tiny_base, tiny_coco
from yolov10_qat import __version__, cli
from yolov10_qat.checkpoint.base_weights import WeightsError, find_base
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import load_checkpoint, open_base, save_checkpoint
from yolov10_qat.core.config import HEADINGS, RunConfig
from yolov10_qat.quant.layers import plan, quantize
from yolov10_qat.runs.folder import check_free, open_root
from yolov10_qat.runs.summary import load_summary


def refused(done, *pieces, code=1):
    "One line, and what it says."
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stdout+done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), done.stderr
    for piece in pieces: assert piece in lines[0]


@pytest.fixture
def inside(monkeypatch, capsys):
    "The same command in this process, where torch is imported already."
    monkeypatch.setenv('YOLO_VERBOSE', os.environ.get('YOLO_VERBOSE', 'true'))  # the environment belongs to the tests

    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end: cli.main([str(w) for w in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=end.value.code, stdout=out, stderr=err)
    return call


# --- words ---------------------------------------------------------------------------------------------------------------------------------

def test_version_and_help():
    assert command('--version').stdout == f'yolov10-qat {__version__}\n'
    told = command('--help')
    assert told.returncode == 0 and not told.stderr
    for name in ('run', 'dataset', 'eval', 'checkpoint', 'report', '--version'): assert f'│ {name} ' in told.stdout
    for name in ('show', 'verify'): assert f'│ {name} ' in command('checkpoint', '--help').stdout


STARTS = {'run': cli.app, 'fp16': cli.scratch_app, 'qat-w4a16': cli.scratch_app}  # commands with the settings of a run

def parsed(group, name):
    "A command of a group, as typer builds it."
    return typer.main.get_command(group).commands[name]


@pytest.mark.parametrize('name', STARTS)
@pytest.mark.parametrize('width', [80, 120])
def test_the_help_of_a_run_is_in_groups(name, width, inside, monkeypatch):
    "Every flag whole and in the panel of its heading, and no line too long."
    monkeypatch.setenv('COLUMNS', str(width))
    shown = inside(*(['scratch'] if name != 'run' else []), name, '--help').stdout
    assert max(map(len, shown.splitlines())) == width
    panels = {title.strip(): set(re.findall(r'--[a-z0-9-]+(?= )', '\n'.join(re.findall(r'^│ +(--.*)', text, flags=re.M))))
              for title, text in re.findall(r'^╭─ (.*?) ─+╮\n(.*?)^╰', shown, flags=re.M | re.S)}
    for option in parsed(STARTS[name], name).params:
        if option.name not in RunConfig.model_fields: continue
        heading = HEADINGS[option.name] + (', on or off' if option.secondary_opts else '')
        assert {*option.opts, *option.secondary_opts} <= panels[heading], option.name
    assert shown.split('Examples:')[1].split()[0] == 'yolov10-qat'


@pytest.mark.parametrize('name', STARTS)
def test_the_examples_of_the_help_are_commands(name):
    command = parsed(STARTS[name], name)
    examples = [line.split() for line in command.epilog.splitlines()[1:]]
    assert len(examples) > 1
    for words in examples:
        words = words[words.index(name)+1:]
        given = {k: v for k, v in command.make_context(name, words).params.items() if v is not None}
        resume, config = given.pop('resume'), given.pop('config', None)
        if not resume and not config: RunConfig(**given)


MALFORMED = {'no command':      ([], ['Missing command']), 'unknown command': (['runn'], ["No such command 'runn'"]),
             'unknown flag':    (['run', '--epoch', 3], ['No such option: --epoch', '--epochs']),
             'not a number':    (['run', '--weight-bits', 'four'], ['--weight-bits', 'integer']),
             'missing flag':    (['dataset', '--coco-root', 'coco'], ["Missing option '--out'"]),
             'negative count':  (['dataset', '--coco-root', 'coco', '--out', 'view', '--train-max-images', -1],
                                 ['--train-max-images', 'greater than or equal to 0']),
             'resume what?':    (['run', '--resume'], ['--resume needs --run-root']),}

@pytest.mark.parametrize('case', MALFORMED)
def test_malformed_command(case, tmp_path):
    words, pieces = MALFORMED[case]
    refused(command(*words, cwd=tmp_path), *pieces, 'see yolov10-qat --help', code=2)
    assert not os.listdir(tmp_path)


VALUES = {'imgsz':       (['--imgsz', 100], ['imgsz=100', 'multiple of 32']),
          'bits':        (['--weight-bits', 9], ['weight_bits=9', 'less than or equal to 8']),
          'too few':     (['--first-last-bits', 1], ['first_last_bits=1', 'greater than or equal to 2']),
          'method part': (['--method', 'emma'], ["unknown method part 'emma' (did you mean 'ema'?)", 'use baseline']),
          'mistyped qc': (['--method', 'qcc'], ["unknown method part 'qcc' (did you mean 'qc'?)"]),
          'qc scope':    (['--qc-scope', 'head', '--qc-epochs', 0],
                          ["qc_scope='head'", "'all', 'backbone' or 'no-head'", 'qc_epochs=0']),
          'variant':     (['--variant', 'yolo11n'], ["'yolo11n' is unknown (did you mean 'yolo10n'?)"]),
          'several':     (['--epochs', 0, '--lr0', 7, '--granularity', 'per_layer'],
                          ['epochs=0', 'lr0=7', "granularity='per_layer'", "'per_channel', 'per_tensor' or 'per_group'"]),}

@pytest.mark.parametrize('case', VALUES)
def test_bad_value(case, inside, tmp_path):
    words, pieces = VALUES[case]
    refused(inside('run', *words, '--run-root', tmp_path/'r'), *pieces)
    assert not os.listdir(tmp_path)


CONFIGS = {
    'unknown key': ('epocs: 3\n', "unknown setting 'epocs' (did you mean 'epochs'?)"),
    'bad value':   ('weight_bits: 1\n', 'weight_bits=1'),
    'not YAML':    ('epochs: [3\n', 'is not YAML'),
    'no mapping':  ('- 3\n', 'must contain a mapping of settings, got list'),
    'missing':     (None, 'no configuration file'),
}

@pytest.mark.parametrize('case', CONFIGS)
def test_bad_config_file(case, inside, tmp_path):
    text, piece = CONFIGS[case]
    if text: (tmp_path/'c.yaml').write_text(text)
    refused(inside('run', '--config', tmp_path/'c.yaml', '--run-root', tmp_path/'r'), str(tmp_path/'c.yaml'), piece)
    assert not (tmp_path/'r').exists()


# --- the run root ----------------------------------------------------------------------------------------------------------------------------

def test_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path/'thesis.doc').write_text('years of work')
    refused(command('run', '--run-root', tmp_path), f'{tmp_path} exists and is not empty (it has thesis.doc)',
            'choose another --run-root')
    assert os.listdir(tmp_path) == ['thesis.doc']
    refused(command('run', '--run-root', tmp_path/'thesis.doc'), 'thesis.doc is a file', 'choose another --run-root')


def test_run_root_in_use_is_not_started_again(tmp_path):
    before = open_root(RunConfig(run_root=tmp_path/'r'))
    (before/'evaluation').mkdir()
    text = (before/'run_summary.json').read_text()
    refused(command('run', '--run-root', before), 'exists and is not empty (it has evaluation)',
            'continue it with --resume')
    assert (before/'run_summary.json').read_text() == text


def test_resume_is_the_same_run_or_none(tmp_path):
    root = open_root(RunConfig(run_root=tmp_path/'r', epochs=3))
    text = (root/'run_config.yaml').read_text()
    refused(command('run', '--resume', '--run-root', root, '--seed', 5), 'seed=5 (it has 0)',
            'drop these flags, or start a new run')
    assert (root/'run_config.yaml').read_text() == text
    (tmp_path/'empty').mkdir()
    for name in ('empty', 'absent'):
        refused(command('run', '--resume', '--run-root', tmp_path/name), str(tmp_path/name), 'no run to resume',
                'start it without --resume')
    assert sorted(os.listdir(tmp_path)) == ['empty', 'r'] and not os.listdir(tmp_path/'empty')


def test_report_of_no_run(tmp_path):
    refused(command('report', tmp_path), f'no run_summary.json in {tmp_path}', 'is this a run root?')
    refused(command('report', tmp_path/'absent'), 'no run_summary.json in', 'absent')
    assert not os.listdir(tmp_path)


# --- data ------------------------------------------------------------------------------------------------------------------------------------

def annotations(root, split='train2017'): return root/'annotations'/f'instances_{split}.json'

def edited(change, split='train2017'):
    "A damage done to the parsed annotation file."
    def damage(root):
        content = json.loads(annotations(root, split).read_text())
        change(content)
        annotations(root, split).write_text(json.dumps(content))
    return damage

def cut(root): annotations(root).write_bytes(annotations(root).read_bytes()[:-40])

TRAIN = 'instances_train2017.json'
DATA = {
    'no root':           (lambda r: r.rename(r.with_name('coca')),
                          ['no COCO root', 'coco', "did you mean 'coca'?", 'it should contain train2017/']),
    'no split':          (lambda r: shutil.rmtree(r/'val2017'),
                          ['no image folder', 'coco/val2017', 'name an existing split']),
    'no annotations':    (lambda r: annotations(r).unlink(), ['no annotation file', TRAIN, 'name an existing split']),
    'not JSON':          (lambda r: annotations(r).write_text('hello'),
                          [TRAIN, '(5 bytes) is not JSON', 'take the original file again']),
    'truncated':         (cut, [TRAIN, 'cut off', 'take the original file again']),
    'no categories':     (edited(lambda c: c.pop('categories')),
                          [TRAIN, 'missing required field categories', 'correct it']),
    'record lacks key':  (edited(lambda c: c['images'][2].pop('width')),
                          [TRAIN, 'missing required field width at images[2]', 'record with id 3', 'correct it']),
    'no images':         (edited(lambda c: c.update(images=[], annotations=[])),
                          [TRAIN, 'images is empty', 'needs at least one']),
    'missing image':     (lambda r: (r/'train2017/002.jpg').unlink(),
                          ['1 of 4 selected images', 'tolerated: 1 %', '002.jpg (missing)', 'restore or convert the files']),
    'unreadable image':  (lambda r: (r/'val2017/003.jpg').write_text('no picture'),
                          ['1 of 4 selected images', '003.jpg (unreadable)', 'restore or convert the files']),
    'escaping name':     (edited(lambda c: c['images'][0].update(file_name='../val2017/001.jpg')),
                          [TRAIN, "image 1 has file_name '../val2017/001.jpg'", 'must be a relative path']),
    'absolute name':     (edited(lambda c: c['images'][0].update(file_name='/etc/passwd')),
                          [TRAIN, "image 1 has file_name '/etc/passwd'", 'must be a relative path']),
    'duplicate image':   (edited(lambda c: c['images'][1].update(id=1)),
                          [TRAIN, "images 1 ('001.jpg') and 1 ('002.jpg') have the same id", 'remove or rename one']),
    'unknown category':  (edited(lambda c: c['annotations'][1].update(category_id=77)),
                          [TRAIN, '1 annotations have a category_id that is not in categories', 'the first has id 2']),
    'other classes':     (edited(lambda c: c['categories'][0].update(name='blue'), 'val2017'),
                          ['categories (id, name) of train and val differ', 'blue', 'use one class table']),}

@pytest.fixture
def coco(tiny, tmp_path): return shutil.copytree(tiny/'coco', tmp_path/'coco')

@pytest.mark.parametrize('case', DATA)
def test_bad_data(case, coco, tmp_path):
    damage, pieces = DATA[case]
    damage(coco)
    before = sorted(os.listdir(tmp_path))
    refused(command('dataset', '--coco-root', coco, '--out', tmp_path/'view'), *pieces)
    assert sorted(os.listdir(tmp_path)) == before


def test_dataset(coco, tmp_path):
    done = command('dataset', '--coco-root', coco, '--out', tmp_path/'view', '--train-max-images', 3)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(
        '3 training and 4 validation images, 2 '
        'classes, fingerprint ') and done.stdout.endswith(f"{tmp_path/'view'/'dataset.yaml'}\n")
    assert (tmp_path/'view/provenance.json').is_file() and len(list((tmp_path/'view/images/train').iterdir())) == 3
    refused(command('dataset', '--coco-root', coco, '--out', tmp_path/'view'),
            'contains a view of other data (train_max_images 3, now 0)', 'choose another folder')
    refused(command('dataset', '--coco-root', coco, '--out', coco), f'{coco} is no finished dataset view',
            'name another folder')
    refused(command('dataset', '--coco-root', coco, '--out', annotations(coco)), f'{TRAIN} is a file',
            'choose another folder')


def test_what_is_tolerated_is_counted_and_said(tmp_path):
    root = tiny_coco(tmp_path/'coco', images=100)
    (root/'train2017/050.jpg').unlink()
    added = {200: [float('nan'), 0, 9, 9], 201: [1, 1, -5, 5], 202: [1, 1, 0, 5], 203: [70, 70, 5, 5],
             204: [60, 60, 9, 9]}
    strange = {205: dict(image_id=777), 206: dict(category_id=77)}
    def add(content):
        plain = dict(image_id=1, category_id=5, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
        content['annotations'] += [plain | dict(id=i, bbox=box) for i, box in added.items()] + [
            plain | dict(id=i) | change for i, change in strange.items()]
    edited(add)(root)
    done = command('dataset', '--coco-root', root, '--out', tmp_path/'view')
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) == {
        'warning: train2017: ' + line
        for line in ('images left out: 1: 050.jpg (missing)', 'annotations left out: 1: unknown image (id 205)',
                     'annotations left out: 1: unknown category (id 206)',
                     'annotations left out: 1: not finite (id 200)', 'annotations left out: 2: no size (id 201, 202)',
                     'annotations left out: 1: outside the image (id 203)', 'boxes clipped to the image: 1',
                     '5 of 105 annotations (5%) are not learned from: 1 unknown category, 1 not finite, 2 no size, '
                     '1 outside the image')}
    facts = json.loads((tmp_path/'view/provenance.json').read_text())['splits']['train']
    assert {reason: entry['first_ids'] for reason, entry in facts['skipped'].items() if entry['count']} == {
        'unknown image': [205], 'unknown category': [206], 'not finite': [200], 'no size': [201, 202],
        'outside the image': [203]}
    assert (facts['images'], facts['faults'], facts['clipped']) == (99, {'050.jpg': 'missing'}, 1)


# --- base weights ----------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def bases(tiny, tmp_path_factory):
    "Folder of base weights, all of them wrong for YOLOv10n and two classes."
    folder = tmp_path_factory.mktemp('bases')
    tiny_base(folder/'s.pt', 'yolov10s')
    tiny_base(folder/'three.pt', classes=3)
    tiny_base(folder/'v8.pt', 'yolov8n')
    whole = (tiny/'base.pt').read_bytes()
    (folder/'torn.pt').write_bytes(whole[:100_000])
    (folder/'damaged.pt').write_bytes(whole[:5_000_000] + bytes(99) + whole[5_000_099:])
    torch.save({'weights': torch.ones(3)}, folder/'other.pt')
    return folder


BASES = {
    's.pt':       ['does not fit yolo10n', 'yolov10s', '--variant or other --base'],
    'three.pt':   ['knows 3 classes, the data has 2', 'use weights trained on these classes'],
    'v8.pt':      ['is no YOLOv10 detector', 'Detect'],
    'torn.pt':    ['100000 bytes', 'cut short', 'replace it by a whole copy'],
    'damaged.pt': ['is damaged', 'checksum'],
    'other.pt':   ['contains weights without their network (a state_dict)'],
    'tree.pt':    ["did you mean 'three.pt'?", '--base'],
    '':           ['it is a folder', '--base'],
}

@pytest.mark.parametrize('name', BASES)
def test_bad_base(name, bases):
    with pytest.raises((CheckpointError, WeightsError, FileNotFoundError)) as error:
        open_base(find_base('yolo10n', bases/name).path, 'yolo10n', ['red', 'green'])
    for piece in (str(bases/name), *BASES[name]): assert piece in str(error.value)
    assert '\n' not in str(error.value)


# --- runs that cannot start ------------------------------------------------------------------------------------------------------------------

CANNOT_START = {
    'device':     (dict(device=99), "device '99' is not on this machine; choose from cpu"),
    'data':       (dict(damage=cut), 'cut off'),
    'other base': (dict(base='s.pt'), 'does not fit yolo10n'),
}

@pytest.mark.parametrize('case', CANNOT_START)
def test_run_that_cannot_start(case, coco, bases, tiny, tmp_path):
    changes, piece = CANNOT_START[case]
    changes.get('damage', lambda root: None)(coco)
    base, root = bases/changes['base'] if 'base' in changes else tiny/'base.pt', tmp_path/'run'
    done = command('run', '--coco-root', coco, '--base', base, '--device', changes.get('device', 'cpu'), '--method',
                   'ema', '--run-root', root, cwd=tmp_path)
    refused(done, piece)
    assert done.stdout.splitlines()[-1] == f"incomplete: {root/'report.html'}"
    summary = load_summary(root)
    assert summary.status == 'incomplete' and done.stderr == f'error: {summary.error.message}\n' and not summary.metrics.rungs
    for name in ('report.html', 'summary.md'):
        page = unescape((root/name).read_text())
        assert piece in page and 'incomplete' in page.lower() and 'completed-' not in page
    assert piece in (root/'run.log').read_text()
    assert not (root/'ultralytics').exists() and not (root/'evaluation').exists() and not list(root.rglob('*.part'))
    assert sorted(os.listdir(tmp_path)) == ['coco', 'run']
    if case == 'other base': return  # data that is fine stays
    assert not (root/'dataset').exists()
    check_free(root)  # the same command, corrected, may use the folder
    (root/'recipe.yaml').write_text('optimizer: of a run that could not start')
    check_free(root)
    open_root(RunConfig(run_root=root, method='ema'))
    assert not (root/'recipe.yaml').exists()


# --- checkpoints -----------------------------------------------------------------------------------------------------------------------------

def write_checkpoint(path, names):
    "A quantised, untrained model as a checkpoint with an average."
    torch.manual_seed(0)
    model = DetectionModel('yolov10n.yaml', nc=len(names), verbose=False)
    manifest = plan(model, 4, 'per_channel', None, False)
    state = quantize(deepcopy(model), manifest).state_dict()
    return save_checkpoint(path,
                           dict(epoch=3, model_state_dict=state, ema_state_dict=deepcopy(state), optimizer=None,
                                train_args={}, model_yaml=model.yaml, names=dict(enumerate(names)), manifest=manifest,
                                ema_updates=12, resume={}))


class Foreign:
    "Creates a file when it is unpickled."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, 'w')


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    whole = write_checkpoint(folder/'good.pt', ['red', 'green'])
    write_checkpoint(folder/'three.pt', ['red', 'green', 'blue'])
    (folder/'torn.pt').write_bytes(whole.read_bytes()[:100_000])
    torch.save({'format_version': 1, 'model': Foreign(str(folder/'owned'))}, folder/'foreign.pt')
    content = load_checkpoint(whole)
    content['model_state_dict']['model.0.conv.weight'][0] = float('nan')
    save_checkpoint(folder/'nan.pt', content)
    return folder


def test_show_and_verify(checkpoints, inside):
    done = command('checkpoint', 'verify', checkpoints/'good.pt')
    assert done.returncode == 0 and not done.stderr
    *facts, last = done.stdout.splitlines()
    assert last == 'whole: yes'
    told = {line[:16].strip(): line[17:] for line in facts}
    assert told['epoch'] == '3' and told['classes'] == '2' and told[
        'weights'] == "['raw', 'ema']" and told['model'] == 'yolov10n.yaml' and told['resumable'] == 'False'
    shown = inside('checkpoint', 'show', checkpoints/'good.pt')
    assert shown.returncode == 0 and not shown.stderr and shown.stdout.splitlines() == facts


def test_eval(checkpoints, tiny):
    done = command('eval', checkpoints/'good.pt', '--coco-root', tiny/'coco', '--imgsz', 64, '--val-max-images', 3)
    assert done.returncode == 0 and not done.stderr
    inputs, *lines = done.stdout.splitlines()
    assert inputs == 'inputs: 64 pixels; as narrow as the images allow' and [
        line.split(' AP ')[0].split()
        for line in lines] == [[head, '3', 'images,', 'pycocotools:'] for head in ('one2one', 'one2many')]


def test_foreign_pickle_is_not_executed(checkpoints):
    refused(command('checkpoint', 'verify', checkpoints/'foreign.pt'),
            f"{checkpoints/'foreign.pt'} contains pickled objects and was not opened", '--base')
    assert not (checkpoints/'owned').exists()


CHECKPOINTS = {
    'absent.pt': ['no checkpoint', 'that folder has foreign.pt, good.pt'],
    '':          ['is a folder', 'name a file'],
    'torn.pt':   ['was cut off (100000 bytes)'],
    'foreign.pt': ['was not opened'],
    'nan.pt':    ['not finite', 'model.0.conv.weight'],
}

@pytest.mark.parametrize('name', CHECKPOINTS)
def test_bad_checkpoint(name, checkpoints, inside, tiny):
    calls = [['checkpoint', 'verify', checkpoints/name]]
    if name != 'nan.pt':
        calls += [['checkpoint', 'show', checkpoints/name], ['eval', checkpoints/name, '--coco-root', tiny/'coco']]
    for words in calls: refused(inside(*words), str(checkpoints/name), *CHECKPOINTS[name])
    assert not (checkpoints/'owned').exists()


EVALS = {
    'classes': ('three.pt', [], ['three.pt knows 3 classes', 'the data has 2', 'or the data they were made for']),
    'weights': ('good.pt', ['--weights', 'mean'], ["weights 'mean' is unknown", 'use raw, ema or best']),
    'imgsz':   ('good.pt', ['--imgsz', 100], ['--imgsz 100', 'multiple of 32']),
    'split':   ('good.pt', ['--val-split', 'val'], ['no image folder', "did you mean 'val2017'?"]),
    'device':  ('good.pt', ['--device', 'cuda:99'], ["device 'cuda:99' is not on this machine", 'cpu']),
    'nonsense': ('good.pt', ['--device', 'banana'], ["device 'banana' is not on this machine", 'cpu']),
}

@pytest.mark.parametrize('case', EVALS)
def test_bad_eval(case, checkpoints, inside, tiny):
    name, words, pieces = EVALS[case]
    refused(inside('eval', checkpoints/name, '--coco-root', tiny/'coco', *words), *pieces)
