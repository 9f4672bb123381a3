"A checkpoint from a stranger: nothing in it is run, nothing it says is believed unchecked, and the answer is one line."
import io
import os
import pickle
import random
import unicodedata
import zipfile
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import hostile
from fake_run import make_run
from hostile import FAKE, answer, flipped, mutate, watched
from yolov10_qat.checkpoint.format import CheckpointError, ForeignFile, describe_checkpoint, known_variant, read_outline
from yolov10_qat.checkpoint.store import (
    as_yolo,
    build_model,
    load,
    load_checkpoint,
    network,
    newest_checkpoint,
    open_base,
    random_model,
    save_checkpoint,
    verify_checkpoint,
)
from yolov10_qat.cli import main
from yolov10_qat.quant.layers import deployable, plan, quantize

EXAMPLE = Path(__file__).parent/'examples'/'checkpoint-v1.pt'
LINES = len(describe_checkpoint(EXAMPLE))  # that show prints


@pytest.fixture(scope='module')
def content():
    "What a checkpoint of a real network holds, for resuming."
    model = random_model('yolo10n', ['red', 'green'], seed=0)
    manifest = plan(model)
    quantize(model, manifest)
    rows = [dict(epoch=1, time=2.)]
    return dict(format_version=1, date='2026-11-26', epoch=1, model_state_dict=dict(model.state_dict()),
                ema_state_dict=None, optimizer=dict(state={}, param_groups=[]), train_args=dict(imgsz=64),
                model_yaml=model.yaml, names=model.names, manifest=manifest, ema_updates=0,
                resume=dict(scaler={}, best_fitness=.1, rows=rows, identity=dict(seed=0)))


def owned(folder): return Path(folder)/'owned'

def row(function, *arguments):
    "A change of the definition: its first row calls something."
    def change(definition, folder):
        words = [str(a).format(owned=owned(folder), pickle=Path(folder)/'trap.pt') for a in arguments]
        definition['backbone'] = [[-1, 1, function, words], *definition['backbone'][1:]]
    return change

def key(name, text):
    def change(definition, folder):
        definition[name] = text.format(owned=owned(folder), pickle=Path(folder)/'trap.pt')
    return change

ACTING = {  # S1, S3
    'activation':         key('activation', "__import__('os').mkdir('{owned}')"),
    'torch_load':         row('torch_load', '{pickle}'),
    'check_file':         row('check_file', 'http://127.0.0.1:9/x.pt'),
    'check_requirements': row('check_requirements', 'nonsense-that-is-nowhere'),
    'a name of torch.nn': row('nn.modules.module.importlib.import_module', 'antigravity'),
    'attempt_load':       row('attempt_load_weights', '{pickle}'),
}


class Trap:
    "Makes a folder when it is unpickled."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return os.mkdir, (self.path,)


def hostile_file(folder, content, change, name='hostile.pt'):
    "A whole checkpoint whose definition is not Ultralytics', beside the pickle that it may name."
    torch.save({'model': Trap(owned(folder))}, Path(folder)/'trap.pt')
    definition = deepcopy(content['model_yaml'])
    change(definition, folder)
    return save_checkpoint(Path(folder)/name, content | dict(model_yaml=definition))


def refused(done, *pieces):
    "One line, of ours, without anything that a terminal obeys."
    status, _, err = done
    assert status == 1 and err.startswith('error: ') and err.count('\n') == 1, err
    assert all(piece in err for piece in pieces), err
    assert not any(unicodedata.category(c) in ('Cc', 'Cf') for c in err[:-1]), err


def _publish(folder, file):
    root = make_run(folder/'run')
    weights = root/'ultralytics'/'train'/'weights'
    weights.mkdir(parents=True, exist_ok=True)
    for name in ('best.pt', 'last.pt'): (weights/name).write_bytes(file.read_bytes())
    return ['publish', root, '--name', 'x']

COMMANDS = {
    'verify':      lambda folder, coco, file: ['checkpoint', 'verify', file],
    'eval':        lambda folder, coco, file: ['eval', file, '--coco-root', coco, '--imgsz', 64],
    'export':      lambda folder, coco, file: ['export', file, '--out', folder/'out'/'x.safetensors'],
    'export onnx': lambda folder, coco, file: ['export', file, '--out', folder/'out'/'x.onnx', '--format', 'onnx-int4'],
    'ptq':         lambda folder, coco, file: ['ptq', file, '--coco-root', coco, '--out', folder/'out', '--imgsz', 64,
                                               '--method', 'rtn'],
    'sensitivity': lambda folder, coco, file: ['sensitivity', file, '--coco-root', coco, '--out', folder/'out',
                                               '--imgsz', 64],
    'publish':     lambda folder, coco, file: _publish(folder, file),
}

USUAL = ('os.fork', 'pickle.find_class',  # the pool that reads labels
         "subprocess.Popen ('git',", "subprocess.Popen ('uname',")  # the environment, for a summary

@pytest.mark.parametrize('kind', ACTING)
@pytest.mark.parametrize('command', COMMANDS)
def test_no_command_builds_what_a_file_defines(command, kind, content, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = hostile_file(tmp_path, content, ACTING[kind])
    words = COMMANDS[command](tmp_path, tiny/'coco', file)
    with watched(tmp_path, '/tmp', '/dev', Path.home(), usual=USUAL):
        done = answer(main, *words)
    refused(done, 'its network is not the yolov10n.yaml of Ultralytics: ',
            'activation is ' if kind == 'activation' else 'backbone row 0 is ')
    assert 'whole' not in done[1] and not owned(tmp_path).exists()


@pytest.mark.parametrize('kind', ACTING)
def test_no_function_builds_what_a_file_defines(kind, content, tmp_path):
    file = hostile_file(tmp_path, content, ACTING[kind], 'last.pt')
    with watched(tmp_path):
        for use in load, verify_checkpoint, lambda f: open_base(f, 'yolo10n', ['red', 'green']):
            with pytest.raises(CheckpointError, match=r'last\.pt: its network is not the yolov10n'): use(file)
        with pytest.raises(CheckpointError, match='its network is not'): build_model(load_checkpoint(file))
        found, _, passed = newest_checkpoint(tmp_path)  # what a resume opens
        assert found is None and 'last.pt cannot be gone on with: its network is not' in ' '.join(passed)
        status, out, err = answer(main, 'checkpoint', 'show', file)
        assert status == 0 and not err and 'model            unknown: its network is not' in out
    assert not owned(tmp_path).exists()


def test_where_a_definition_came_from_is_not_opened(content, tmp_path, monkeypatch):
    "S4: Ultralytics would unpickle the file that `yaml_file` names."
    monkeypatch.chdir(tmp_path)
    Path('yolov10n.yaml').write_text("nc: 1\nactivation: __import__('os').mkdir('owned')\nbackbone: []\nhead: []\n")
    file = hostile_file(tmp_path, content, key('yaml_file', '{pickle}'))
    with watched(tmp_path):
        model = load(file)
        assert model.names == {0: 'red', 1: 'green'} and model.model.yaml['yaml_file'] == 'yolov10n.yaml'
        plain = deployable(build_model(load_checkpoint(file)))
        plain.yaml['yaml_file'] = str(tmp_path/'trap.pt')
        assert as_yolo(plain).model is plain
        assert answer(main, 'checkpoint', 'verify', file)[0] == 0
    assert not owned(tmp_path).exists()


def test_a_base_of_ultralytics_with_another_definition(tiny, tmp_path):
    "Its tensors have the same shapes, and its numbers would be others."
    weights = torch.load(tiny/'base.pt', weights_only=False)
    open_base(tiny/'base.pt', 'yolo10n', ['red', 'green'])
    for change, piece in (dict(activation='torch.nn.ReLU()'), 'activation is torch.nn.ReLU'), (dict(ch=4), 'ch is 4'):
        weights['model'].yaml = known_yaml = dict(weights['model'].yaml)
        weights['model'].yaml |= change
        torch.save(weights, tmp_path/'other.pt')
        with pytest.raises(CheckpointError, match=f'other.pt: its network is not .*{piece}'):
            open_base(tmp_path/'other.pt', 'yolo10n', ['red', 'green'])
        for name in change: del known_yaml[name]


# --- what is printed -------------------------------------------------------------------------------------------------

def test_no_word_makes_a_line(content, tmp_path):
    "S13: in every field that is shown."
    manifest = [e | dict(kept_why=FAKE) if not e['bits'] else e for e in content['manifest']]
    file = save_checkpoint(tmp_path/'x.pt', content | dict(
        date=FAKE, names={0: FAKE, 1: 'b'}, manifest=manifest, model_yaml=content['model_yaml'] | {'yaml_file': FAKE}))
    facts = describe_checkpoint(file)
    for word in 'show', 'verify':
        status, out, err = answer(main, 'checkpoint', word, file)
        assert status == 0 and not err
        assert len(out.splitlines()) == len(facts) + (word == 'verify') and out.isascii() and '\x1b' not in out
        assert out.splitlines().count('whole: yes') == (word == 'verify') and 'x\\nwhole: yes\\x1b[2K' in out
    odd = save_checkpoint(tmp_path/'odd.pt', content | dict(model_yaml=content['model_yaml'] | {FAKE: FAKE}))
    refused(answer(main, 'checkpoint', 'verify', odd), r'x\nwhole: yes\x1b[2K\u202e is x\nwhole')
    _, out, _ = answer(main, 'checkpoint', 'show', odd)
    assert len(out.splitlines()) == len(facts) and out.isascii()


@pytest.mark.parametrize('change', [
    lambda c: dict(manifest=[c['manifest'][0] | dict(name=FAKE), *c['manifest'][1:]]),
    lambda c: dict(model_state_dict=c['model_state_dict'] | {FAKE: torch.zeros(1)}),
    lambda c: dict(model_state_dict=c['model_state_dict'] | {f'{FAKE}.conv.gamma': torch.zeros(1)}),
    lambda c: dict(model_state_dict=c['model_state_dict'] | {'model.0.conv.weight': torch.full((16, 3, 3, 3), torch.nan)}),
    lambda c: dict(model_state_dict=c['model_state_dict'] | {'model.0.bn.bias': torch.zeros(16, dtype=torch.float64)}),
    lambda c: dict(model_state_dict=c['model_state_dict'] | {'model.0.bn.bias': torch.zeros(17)}),
    lambda c: dict(ema_state_dict={}), lambda c: dict(names={0: 'a'}), lambda c: dict(names={0: 'a', 1: 'b', 2: 'c'}),
])
def test_what_does_not_fit_is_one_line(change, content, tmp_path):
    refused(answer(main, 'checkpoint', 'verify', save_checkpoint(tmp_path/'x.pt', content | change(content))), 'x.pt')


# --- the archive -----------------------------------------------------------------------------------------------------

def parts_of(file):
    with zipfile.ZipFile(file) as archive: return {n: archive.read(n) for n in archive.namelist()}

def written(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, data in parts: archive.writestr(name, data)
    return path

def of_pickle(path, change):
    "The example with another `data.pkl`; its checksums are right."
    return written(path, [(n, change(d) if n.endswith('/data.pkl') else d) for n, d in parts_of(EXAMPLE).items()])

def refuse(file, *pieces):
    for word in 'show', 'verify':
        with watched(): refused(answer(main, 'checkpoint', word, file), str(file), *pieces)


def test_a_part_that_unfolds(tmp_path):
    "S11: a few megabytes that would be gigabytes, and a part that says less than it holds."
    parts = [*parts_of(EXAMPLE).items()]
    top = parts[0][0].partition('/')[0]
    refuse(written(tmp_path/'deflated.pt', parts, zipfile.ZIP_DEFLATED), 'compressed')
    bomb = written(tmp_path/'bomb.pt', parts)
    with zipfile.ZipFile(bomb, 'a', zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f'{top}/data/9', 'w') as part:
            for _ in range(200): part.write(bytes(1 << 20))
    assert bomb.stat().st_size < 1 << 20
    refuse(bomb, "its part", 'data/9 is compressed')


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_two_parts_of_one_name(tmp_path):
    "Two readers of an archive may take different ones; to some the case of letters is the same."
    parts = [*parts_of(EXAMPLE).items()]
    refuse(written(tmp_path/'twice.pt', [*parts, parts[0]]), 'a part is there twice')
    refuse(written(tmp_path/'case.pt', [*parts, (parts[0][0].upper(), b'')]), 'a part is there twice')


def test_parts_that_overlap(tmp_path):
    "One megabyte, named a thousand times."
    file = written(tmp_path/'x.pt', [('a/data.pkl', b'N.'), ('a/big', bytes(1 << 20)), *((f'a/{i:05}', b'') for i in range(1000))])
    with zipfile.ZipFile(file) as archive:
        big, start = archive.getinfo('a/big'), archive.start_dir
    data = bytearray(file.read_bytes())
    at = start
    while data[at:at+4] == b'PK\1\2':
        data[at+16:at+28] = big.CRC.to_bytes(4, 'little') + (1 << 20).to_bytes(4, 'little')*2
        data[at+42:at+46] = big.header_offset.to_bytes(4, 'little')
        at += 46 + int.from_bytes(data[at+28:at+30], 'little')
    file.write_bytes(data)
    refuse(file, 'its parts overlap')


def test_no_data(tmp_path):
    for name, parts in {'empty': [], 'other': [('a/x', b'')], 'bare': [('data.pkl', b'N.')]}.items():
        file = written(tmp_path/f'{name}.pt', parts)
        with pytest.raises(ForeignFile, match=r'no checkpoint of this project: it has no (data\.pkl|format_version)'):
            read_outline(file)


def test_other_order_of_bytes(tmp_path):
    refuse(written(tmp_path/'x.pt', [(n, b'big' if n.endswith('byteorder') else d) for n, d in parts_of(EXAMPLE).items()]),
           'another order of bytes')


# --- the pickle ------------------------------------------------------------------------------------------------------

ONE = b'(K\x01K\x01K\x01K\x01t'  # the shape of the example's tensors
def shaped(*numbers): return b'(' + b''.join(b'\x8a\x08' + n.to_bytes(8, 'little', signed=True) for n in numbers) + b't'

UNTRUE = {
    'ten to the twelve': lambda p: p.replace(ONE, shaped(10**6, 10**6, 1, 1), 1),
    'one more':          lambda p: p.replace(ONE, shaped(2, 1, 1, 1), 1),
    'stretched':         lambda p: p.replace(ONE, shaped(1, 2, 1, 1), 1),
}

@pytest.mark.parametrize('case', UNTRUE)
def test_a_tensor_that_is_not_there(case, tmp_path):
    assert ONE in dict(parts_of(EXAMPLE))[next(n for n in parts_of(EXAMPLE) if n.endswith('data.pkl'))]
    refuse(of_pickle(tmp_path/'x.pt', UNTRUE[case]), 'larger than its part')


class Part:
    "A storage, to be pickled as torch pickles it."
    def __init__(self, name, count, kind='FloatStorage'): self.pid = ('storage', getattr(torch, kind), name, 'cpu', count)

class Described:
    "A tensor as a pickle describes it: whatever is wanted."
    def __init__(self, part, *how): self.arguments = (part, *how, False, None)
    def __reduce__(self): return torch._utils._rebuild_tensor_v2, self.arguments

class Pickler(pickle.Pickler):
    def persistent_id(self, value): return value.pid if isinstance(value, Part) else None

def described(path, *tensors, **more):
    "A checkpoint whose weights are described, with one part of eight numbers."
    stream = io.BytesIO()
    example = torch.load(EXAMPLE, weights_only=True)
    state = {f'model.{i}.weight': t for i, t in enumerate(tensors)}
    Pickler(stream, 2).dump(example | dict(model_state_dict=state, ema_state_dict=None) | more)
    return written(path, [('a/data.pkl', stream.getvalue()), ('a/byteorder', b'little'), ('a/data/0', bytes(32))])

WITHIN = [(0, (8,), (1,)), (4, (4,), (1,)), (7, (), ()), (0, (2, 4), (4, 1)), (1, (2, 2), (1, 2)), (0, (0,), (1,)),
          (0, (8,), (0,))]
OUTSIDE = [(1, (8,), (1,)), (8, (), ()), (0, (2, 4), (5, 1)), (0, (9,), (0,)), (0, (2,), (8,)), (2**30, (1,), (1,))]
NONSENSE = [(-1, (8,), (1,)), (0, (-8,), (1,)), (0, (8,), (-1,)), (0, (8,), (1, 1)), (0, [8], (1,)), (True, (1,), (1,)),
            (0, (1,)*9, (1,)*9), (0, (2**31,), (0,)), (0, ('8',), (1,)), (None, (1,), (1,)), (0, (1.,), (1,))]

def test_a_tensor_stays_within_its_part(tmp_path):
    for offset, shape, stride in WITHIN:
        file = described(tmp_path/'x.pt', Described(Part('0', 8), offset, shape, stride))
        with zipfile.ZipFile(file) as archive: assert archive.testzip() is None
        assert read_outline(file)['model_state_dict']['model.0.weight'].shape == shape
        found = load_checkpoint(file)['model_state_dict']['model.0.weight']
        assert (found.shape, found.stride(), found.storage_offset()) == (shape, stride, offset)
    for how in OUTSIDE: refuse(described(tmp_path/'x.pt', Described(Part('0', 8), *how)), 'larger than its part')
    for how in NONSENSE: refuse(described(tmp_path/'x.pt', Described(Part('0', 8), *how)), 'was not opened')


@pytest.mark.parametrize('part', [('0', 7), ('0', 9), ('0', 2**40), ('1', 8), ('0', 8, 'DoubleStorage'), ('../a', 8),
                                  ('0', 0)], ids=str)
def test_a_part_has_the_size_that_is_said(part, tmp_path):
    refuse(described(tmp_path/'x.pt', Described(Part(*part), 0, (1,), (1,))), 'larger than its part')


def test_one_part_named_without_end(tmp_path):
    "A hundred thousand views of one part would be walked through for hours."
    view = Described(Part('0', 8), 0, (8,), (1,))
    assert read_outline(described(tmp_path/'x.pt', *[view]*4))
    refuse(described(tmp_path/'x.pt', *[view]*5), 'its tensors would take 160 bytes, the file has 128')


def test_a_key_is_a_word_or_a_number(tmp_path):
    "A million tuples in each other as a key: comparing keys would overthrow Python."
    key = b')' + b'\x85'*1_000_000
    for name, tail in {'one': b's', 'many': b'u'}.items():
        pickled = b'\x80\x02}' + (b'(' if name == 'many' else b'') + key + b'N' + tail + b'.'
        refuse(written(tmp_path/f'{name}.pt', [('a/data.pkl', pickled)]), 'was not opened')
    refuse(written(tmp_path/'ordered.pt', [(
        'a/data.pkl', b'\x80\x02ccollections\nOrderedDict\n(' + key + b'N\x86\x85tR.')]), 'was not opened')
    refuse(written(tmp_path/'value.pt', [('a/data.pkl', b'\x80\x02}X\x01\0\0\0a' + key + b's.')]), 'nested more than')


def test_nothing_hangs_on_a_dictionary(tmp_path):
    "A pickle may put attributes on an ordered dictionary: one named `items` would break whoever reads it."
    class Odd(dict):
        def __reduce__(self): return __import__('collections').OrderedDict, (), {'items': 3, 'keys': 4}
    assert describe_checkpoint(described(tmp_path/'x.pt', resume=Odd(), names={0: 'a'}))['epoch'] == 7
    assert dict(load_checkpoint(tmp_path/'x.pt')['resume'].items()) == {}


@pytest.mark.parametrize('value', [torch.float32, {1, 2}, b'bytes', 1j, 2**70, ForeignFile, torch.zeros(1).to_sparse(),
                                   torch.zeros(1, dtype=torch.complex64), {'x': 10**200}], ids=lambda v: str(v)[:20])
def test_only_plain_values(value, tmp_path):
    torch.save(torch.load(EXAMPLE, weights_only=True) | dict(resume={'x': value}), tmp_path/'x.pt')
    refuse(tmp_path/'x.pt')


# --- one thing wrong, at random --------------------------------------------------------------------------------------

BUILT = ('model_yaml', 'names', 'manifest', 'model_state_dict')  # what a network is built from

def spoilt_network(path, base, draw):
    return spoilt_tree(path, base, draw, skip=lambda at: at[0] not in BUILT)

def spoilt_tree(path, base, draw, **more):
    tree, what = mutate(base, draw, hostile.ODD | {
        'tensor': torch.zeros(3), 'sick tensor': torch.tensor([torch.nan]), 'complex': torch.zeros(2, dtype=torch.complex64),
        'many axes': torch.zeros(1, 1, 1, 1, 1, 1, 1, 1, 1, 1), 'half': torch.zeros(3).half(), 'large': torch.zeros(9, 999)}, **more)
    torch.save(tree, path)
    return what

def spoilt_pickle(path, base, draw):
    of_pickle(path, lambda p: flipped(p, draw, draw.choice([1, 1, 2])))
    return 'pickle'

def spoilt_bytes(path, base, draw):
    whole = EXAMPLE.read_bytes()
    cut = draw.random() < .3
    path.write_bytes(whole[:draw.randrange(len(whole))] if cut else flipped(whole, draw, draw.choice([1, 1, 3])))
    return 'cut' if cut else 'bytes'

def spoilt_archive(path, base, draw):
    parts = [*parts_of(EXAMPLE).items()]
    at, act = draw.randrange(len(parts)), draw.choice(['drop', 'twice', 'rename', 'empty', 'longer', 'swap', 'deflate'])
    name, data = parts[at]
    changed = {'drop': [], 'twice': [parts[at]]*2, 'rename': [(draw.choice(['x', ' ', FAKE, '/', name[1:], '../'+name]), data)],
               'empty': [(name, b'')], 'longer': [(name, data*3)]}.get(act, [parts[at]])
    parts[at:at+1] = changed
    if act == 'swap': draw.shuffle(parts)
    written(path, parts, zipfile.ZIP_DEFLATED if act == 'deflate' else zipfile.ZIP_STORED)
    return act

STAGES = {  # of an answer, by a piece of it
    'archive': ('was cut off', 'is damaged: checksum', 'was not written by torch.save'),
    'pickle':  ('was not opened', 'no data.pkl', 'no format_version', 'larger than its part', 'another order of bytes'),
    'plain':   ('no plain value', 'nested more', 'values; take', 'would take'),
    'schema':  ('x.pt: ', 'has format version'),
    'network': ('its network is not',),
    'weights': ('weights do not fit', 'the manifest does not fit', 'values that are not finite', 'not folded'),
}

def stage(status, err):
    if not status: return 'opened'
    return next(s for s in ('weights', 'network', 'plain', 'pickle', 'archive', 'schema')
                if any(piece in err for piece in STAGES[s]))


def attack(folder, base, seed, spoil, words):
    "Spoil one thing and ask; which stage answered."
    draw, file = random.Random(seed), folder/'x.pt'
    what = spoil(file, base, draw)
    with watched():
        done = answer(main, 'checkpoint', words, file)
        if words == 'show':  # what can be shown can be read, and nothing else
            try: load_checkpoint(file)
            except CheckpointError: assert done[0] == 1, (seed, what)
            else: assert done[0] == 0, (seed, what)
    if done[0]: refused(done, 'x.pt')
    else:
        lines = done[1].splitlines()
        assert len(lines) == LINES + (words == 'verify') and not done[2], (seed, what)
        assert lines.count('whole: yes') == (words == 'verify') and not set(done[1]) & set('\x1b\x07\u202e'), (seed, what)
    assert os.listdir(folder) == ['x.pt'], (seed, what)
    return stage(done[0], done[2])


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('files', [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_one_thing_wrong(files, content, tmp_path):
    "Of ten files six have a wrong value, three other bytes, one another archive; one of eight is of a real network."
    toy = torch.load(EXAMPLE, weights_only=True)
    reached = Counter()
    for seed in range(files):
        spoil = [spoilt_tree]*6 + [spoilt_pickle, spoilt_pickle, spoilt_bytes, spoilt_archive]
        real = seed % 8 == 0
        reached[attack(tmp_path, content if real else toy, seed, spoilt_network if real else spoil[seed % 10],
                       'verify' if real else 'show')] += 1
    print(dict(reached))
    least = dict(archive=.04, pickle=.08, plain=.005, schema=.2, network=.004, weights=.004, opened=.1)
    assert all(reached[s] >= share*files for s, share in least.items()), reached


# --- the schema ------------------------------------------------------------------------------------------------------

def test_the_number_of_classes_has_a_bound(content):
    "Ten thousand at most, in the definition and in the names."
    definition = content['model_yaml']
    for nc in 1, 80, 10_000: assert known_variant(definition | dict(nc=nc)) == 'yolo10n'
    for nc in 0, -1, 10_001, True, 2., '2', None:
        with pytest.raises(CheckpointError, match='nc is'): known_variant(definition | dict(nc=nc))
    for names in {}, dict.fromkeys(range(10_001), 'x'):
        with pytest.raises(CheckpointError, match='classes are not between'): network(definition, names)


def test_one_and_true_are_not_the_same_argument(content):
    "Equal to Python, and another layer to Ultralytics: C2f with a shortcut, or with a one."
    definition = deepcopy(content['model_yaml'])
    assert definition['backbone'][2] == [-1, 3, 'C2f', [128, True]]
    for odd in [128, 1], [128., True], [128]:
        definition['backbone'][2] = [-1, 3, 'C2f', odd]
        with pytest.raises(CheckpointError, match='backbone row 2 is'): known_variant(definition)


@pytest.mark.parametrize('change', [
    dict(manifest=[dict(bits=9)]), dict(manifest=[dict(bits=1)]), dict(manifest=[dict(granularity=None)]),
    dict(manifest=[dict(granularity='per_row')]), dict(manifest=[dict(scale='x')]), dict(manifest=[dict(shape=[0])]),
    dict(manifest=[dict(shape=[1]*5)]), dict(manifest=[{}, {}]), dict(names={1: 'a'}), dict(names={0: 3}),
    dict(names={0: 'a'*1001}), dict(names={'0': 'a'}), dict(epoch=-1), dict(epoch=1.), dict(ema_updates=-1),
    dict(train_args=dict(imgsz=[640])), dict(train_args=dict(imgsz=0)), dict(resume=dict(identity=[])),
    dict(resume=dict(identity=dict(seed=[]))), dict(resume=dict(rows=[dict(epoch='x')])), dict(optimizer=dict(state=3)),
    dict(date='x'*61), dict(format_version=True), dict(format_version=1.), dict(model_state_dict={'a': 3}),
    dict(ema_state_dict={1: torch.zeros(1)})], ids=lambda c: str(c)[:40])
def test_schema_names_the_field(change, tmp_path):
    "One line that names the field, from whichever command opens the file."
    example = torch.load(EXAMPLE, weights_only=True)
    if 'manifest' in change: change = dict(manifest=[example['manifest'][0] | e for e in change['manifest']])
    torch.save(example | change, tmp_path/'x.pt')
    refuse(tmp_path/'x.pt', f'x.pt: {next(iter(change))}')


def test_shared_deep_list_is_as_deep_as_its_deepest_place(tmp_path):
    "Reached twice, once where it is deep enough already."
    shared = hostile.deep(20)
    torch.save(torch.load(EXAMPLE, weights_only=True) | dict(
        resume={'a': shared, 'b': [[[[[[[[[[[[shared]]]]]]]]]]]]}), tmp_path/'x.pt')
    refuse(tmp_path/'x.pt', 'nested more than')


def test_flags_are_no_more_than_flags(tmp_path):
    "A byte of 2 in a tensor of flags would count as two."
    file = described(tmp_path/'x.pt', Described(Part('0', 32, 'BoolStorage'), 0, (32,), (1,)))
    with zipfile.ZipFile(file) as archive: parts = {n: archive.read(n) for n in archive.namelist()}
    found = load_checkpoint(written(file, (parts | {'a/data/0': bytes([0, 2, 1, 255])*8}).items()))
    flags = found['model_state_dict']['model.0.weight']
    assert flags.dtype == torch.bool and flags.view(torch.uint8).tolist() == [0, 1, 1, 1]*8
