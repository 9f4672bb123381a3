"Annotation files and settings from strangers: whatever they say, the answer is one line within seconds, and no file is touched outside."
import contextlib
import copy
import json
import random
import shutil
import signal
import unicodedata

import pytest
import yaml

from tiny import tiny_coco
from yolov10_qat.core.config import RunConfig, load_config, save_config
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.core.recipe import RECIPES, read_recipe
from yolov10_qat.data.annotations import DataError
from yolov10_qat.data.splits import SplitRequest, make_split
from yolov10_qat.data.view import build_view

QUICK, MANY = 150, 2000
FEW_OR_MANY = [QUICK, pytest.param(MANY, marks=pytest.mark.slow)]


class Hung(BaseException): pass


@contextlib.contextmanager
def limit(seconds):
    "Ends what takes longer, from within."
    def stop(*_): raise Hung(f'longer than {seconds} s')
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(work, *errors):
    "The message when `work` refuses, None when it does not; anything else that it raises fails the test."
    with limit(30):
        try: work()
        except errors as e: message = str(e)
        else: return None
    assert 0 < len(message) < 3000
    assert not [c for c in message if unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp')], message
    return message

# --- annotations ------------------------------------------------------------------------------------------------------

ODD = [None, True, False, 0, 1, -1, 2, 2**53, 2**63, 2**70, -2**70, 10**400, 1.5, 640., 1e30, -1e300, float('nan'),
       float('inf'), '', '1', '../../x.jpg', '/etc/passwd', 'a\x1b[2K\r\nwhole: yes', 'x'*5000, '\u202e', '\0', 'é'*300,
       'a/b/../c.jpg', 'images\\001.jpg', 'C:\\001.jpg', '002.jpg', '001.jpg/002.jpg', [], {}, [[]], [1, 2], {'a': {}},
       [1, 2, 3, 4], [1e200]*4, [-5, -5, 3, 3], [None]*4, 'deep']


def places(value, path=()):
    "Paths of all values in a document."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items: yield from places(item, (*path, key))


def changed(rng, content):
    "A document with one to three odd values, keys or records."
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice([path for path in places(content) if path])
        parent = content
        for key in way: parent = parent[key]
        act = rng.random()
        if act < .7: parent[last] = copy.deepcopy(rng.choice(ODD))
        elif act < .85: del parent[last]
        elif isinstance(parent, list): parent.append(copy.deepcopy(parent[last]))
        else: parent['x\x1b[2K'] = parent[last]
    return content


def broken(rng, data):
    "Bytes with a damage that no editor of documents makes."
    at, act = rng.randrange(len(data)), rng.randrange(4)
    if act == 0: return data[:at]
    if act == 1: return data[:at] + bytes(rng.choices(range(256), k=3)) + data[at+3:]
    if act == 2: return data[:at] + rng.choice([b'[', b'{', b'"', b'}', b'NaN', b'\\ud800', b'9'*5000]) + data[at:]
    return data[:at] + data[rng.randrange(len(data)):]


def odd_annotations(rng, content):
    data = json.dumps(changed(rng, content) if rng.random() < .8 else content).encode()
    data = data.replace(b'"deep"', b'['*50_000 + b']'*50_000)
    return broken(rng, data) if rng.random() < .3 else data


REQUESTS = SplitRequest('train', 'train2017'), SplitRequest('val', 'val2017')

def files_below(folder): return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('count', FEW_OR_MANY)
def test_any_annotation_file_is_read_or_refused_in_one_line(count, tmp_path):
    root, rng, refused = tiny_coco(tmp_path/'coco', images=2), random.Random(0), 0
    files = [root/f'annotations/instances_{split}.json' for split in ('train2017', 'val2017')]
    content = [json.loads(file.read_text()) for file in files]
    whole = [file.read_bytes() for file in files]
    others = {p for p in files_below(tmp_path) if p.suffix == '.jpg'}
    for k in range(count):
        which = rng.randrange(2)
        data = odd_annotations(rng, content[which])
        files[which].write_bytes(data)
        message = refusal(lambda: make_split(REQUESTS[which], root, tmp_path/'view', lambda *_: None), DataError)
        refused += message is not None
        found = {p for p in files_below(tmp_path) if p.parts[0] != 'view'}
        assert found == others | {f.relative_to(tmp_path) for f in files}, (k, data[:2000])
        shutil.rmtree(tmp_path/'view', ignore_errors=True)
        files[which].write_bytes(whole[which])
    assert .3*count < refused < count


DEEP = '['*100_000 + ']'*100_000

@pytest.mark.parametrize('text', [DEEP, '{"images": %s}' % DEEP, '{"images": [], "annotations": %s}' % DEEP,
                                  '{"images": [], "annotations": [], "categories": [], "info": %s}' % DEEP],
                         ids=['all', 'images', 'annotations', 'info'])
def test_brackets_by_the_thousand_are_refused(text, tmp_path):
    root = tiny_coco(tmp_path/'coco')
    (root/'annotations/instances_train2017.json').write_text(text)
    message = refusal(lambda: build_view(root, tmp_path/'view'), DataError)
    assert 'instances_train2017.json' in message and ('nested too deeply' in message or 'expected' in message)

# --- settings ---------------------------------------------------------------------------------------------------------

def laughs(depth=9, width=9):
    "A few hundred bytes that stand for width**depth words."
    lines = ['a0: &a0 lol'] + [f'a{i}: &a{i} [{", ".join([f"*a{i-1}"]*width)}]' for i in range(1, depth)]
    return '\n'.join([*lines, f'method: *a{depth-1}'])


def merges(depth=9, width=9):
    lines = ['a0: &a0 {x: 1}']
    lines += [f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i-1}"]*width)}]}}' for i in range(1, depth)]
    return '\n'.join(lines)

VALUES = ['', '~', '.nan', '.inf', '-.inf', '-1', '1e999', '9'*5000, '0x' + 'f'*5000, '1:2:3', '2024-01-01',
          '2024-13-45', '2001-12-14t21:59:43.10-05:00', '[1, 2]', '{a: b}', '[[[]]]', '!!bool x', '!!int x', "!!int ''",
          '!!float x', '!!timestamp x', '!!binary x', '!!binary aGVsbG8=', '!!set {a, b}', '!!omap [a: 1]',
          '!!python/object/apply:os.system [touch pwned]', '!!str {}', '"\\e[2Kwhole: yes"', '"a\\nb"', '"\\0"', 'x'*5000,
          '"' + 'é'*3000 + '"', 'yes', 'off', '&x [*x]', '*nowhere', '[' * 500, '8:0,6:1,4:1', '8:0,' * 1000, ':' * 500,
          '99999999999999999999:0', '~nobody/x.yaml', '/dev/zero', '/', '"\\ud800"', '? x', '- x', '%YAML 9', '| x', '>\n']
KEYS = ['1', '~', '1.5', 'yes', '[a]', '{a: b}', '? [a]', '2024-01-01', '<<', '"\\e[2K"', 'x'*5000, '!!binary aGVsbG8=',
        '.nan', '""', '*a', '&a b']
WHOLE = [laughs(), merges(), '['*20_000, '{'*20_000, '- '*20_000, '? '*20_000, 'a: b\n'*5_000, '\0', '\x1b', '\ud7ff',
         '---\na: 1\n---\nb: 2', '[]', '3', '', '&a [*a]', '&a {b: *a}', '{1: 2}', '!!set {a}', 'a: 1:1:1' + ':1'*20_000]


def odd_settings(rng, text):
    if rng.random() < .1: return rng.choice(WHOLE)
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        k, act = rng.randrange(len(lines)), rng.random()
        name = lines[k].partition(':')[0]
        if act < .6: lines[k] = f'{name}: {rng.choice(VALUES)}'
        elif act < .8: lines[k] = f'{rng.choice(KEYS)}: {rng.choice(VALUES)}'
        elif act < .9: lines[k] = lines[k][:rng.randrange(len(lines[k])+1)] + chr(rng.choice([0, 27, 9, 0x85, 0x2028, 0xfeff]))
        else: del lines[k]
    return '\n'.join(lines)


@pytest.mark.parametrize('count', FEW_OR_MANY)
@pytest.mark.parametrize('kind', ['configuration', 'recipe'])
def test_any_settings_are_read_or_refused_in_one_line(kind, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_config(RunConfig(profile='scratch'), tmp_path/'whole.yaml')
    text = {'configuration': (tmp_path/'whole.yaml').read_text(), 'recipe': RECIPES['scratch'].read_text()}[kind]
    read = {'configuration': load_config, 'recipe': read_recipe}[kind]
    rng, file, refused = random.Random(1), tmp_path/'odd.yaml', 0
    for _ in range(count):
        file.write_text(odd_settings(rng, text), encoding='utf-8')
        refused += refusal(lambda: read(file), ConfigError) is not None
    assert refused > count/2
    assert {p.name for p in tmp_path.iterdir()} == {'odd.yaml', 'whole.yaml'}


@pytest.mark.parametrize('text', WHOLE, ids=range(len(WHOLE)))
@pytest.mark.parametrize('read', [load_config, read_recipe])
def test_no_file_of_settings_takes_longer_than_its_size(read, text, tmp_path):
    file = tmp_path/'odd.yaml'
    file.write_text(text, encoding='utf-8')
    if read is read_recipe or text: refusal(lambda: read(file), ConfigError)


@pytest.mark.parametrize('text', [laughs(), merges(), '&a [*a]'])
def test_an_alias_of_a_list_is_named(text, tmp_path):
    (tmp_path/'a.yaml').write_text(text)
    with pytest.raises(ConfigError, match='a.yaml is not YAML: an alias may not stand for a list or a mapping'):
        load_config(tmp_path/'a.yaml')


def test_an_alias_of_a_number_is_that_number(tmp_path):
    (tmp_path/'a.yaml').write_text('epochs: &n 3\nbatch: *n\n')
    assert (load_config(tmp_path/'a.yaml').epochs, load_config(tmp_path/'a.yaml').batch) == (3, 3)


@pytest.mark.parametrize('line,message', [
    ('profile: [smoke]', r"profile=\['smoke'\]: must be a valid string"),
    ('recipe: [scratch]', r"recipe=\['scratch'\]: must be a valid string"),
    ('recipe: ~nobody/x.yaml', 'recipe=~nobody/x.yaml: no such file'),
    ('recipe: ' + 'x'*5000, r'recipe=xxx[x .]*: no such file'),
    ('warmup_epochs: .inf', 'warmup_epochs=inf: must be a finite number'),
    ('lr0: .nan', 'lr0=nan: must be'),
    ('epochs: 2024-01-01', r'epochs=datetime.date\(2024, 1, 1\): must be a valid integer'),
    ('1: 2', 'a.yaml: 1 is no name'),
    ('epochs: ' + '9'*5000, 'a value does not fit its type'),
    ('epochs: 0x' + 'f'*5000, 'epochs=int of more than 4,300 digits: must be at most 9,0'),
    ('seed: ' + '9'*20, 'seed=99999999999999999999: must be at most 9,0'),
    ('run_root: 0x' + 'f'*5000, 'run_root=int of more than 4,300 digits: must be at most 9,0'),
    ('\n'.join(f'x{i}: 1' for i in range(50)), "unknown setting 'x0'.*unknown setting 'x19'.*; and 30 more$"),
])
def test_a_setting_that_cannot_be_is_named_in_few_words(line, message, tmp_path):
    (tmp_path/'a.yaml').write_text(line)
    with pytest.raises(ConfigError, match=message) as caught: load_config(tmp_path/'a.yaml')
    assert len(str(caught.value)) < 2000 and '\n' not in str(caught.value)


def test_a_configuration_survives_the_way_to_a_file_and_back(tmp_path):
    config = RunConfig(profile='demo', method='ema+dampen', epochs=3)
    assert load_config(save_config(config, tmp_path/'a.yaml')) == config
    assert yaml.safe_load((tmp_path/'a.yaml').read_text()) == config.model_dump()


def test_a_section_that_is_there_twice(tmp_path):
    "The error speaks of the first, the record is looked for in the last, which is shorter."
    from yolov10_qat.data.annotations import decode_instances
    record = '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}'
    text = f'{{"images": [], "categories": [], "annotations": [{record}, {{"id": 2}}], "annotations": [{record}]}}'
    with pytest.raises(DataError, match='image_id'): decode_instances(text.encode(), tmp_path/'x.json', False)
