"Done once: a base is read, a socket folder is tried; said once: a name in a file of settings; checked in one place: a header."
import json

import pytest
import torch
from safetensors.torch import save_file

from hostile import answer
from yolov10_qat.checkpoint import foreign, store
from yolov10_qat.checkpoint.base_weights import SHIPPED
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import BASE_KEY, load_base
from yolov10_qat.cli import main
from yolov10_qat.core.config import load_config
from yolov10_qat.core.doors import HEADER_LENGTH
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.core.recipe import RECIPES, read_recipe
from yolov10_qat.deploy.packed import PACKED_KEY, read_packed
from yolov10_qat.pipeline import launch
from yolov10_qat.studies import ptq_ladder, sensitivity


@pytest.mark.parametrize('command', ['ptq', 'sensitivity'])
@pytest.mark.parametrize('kind', ['ultralytics', 'safetensors'])
def test_a_base_is_read_once(kind, command, tiny, tmp_path, monkeypatch):
    "For its size, its classes and its weights; the work that comes after it is not done here."
    where, name = {'ultralytics': (foreign, 'torch_safe_load'), 'safetensors': (store, 'load_base')}[kind]
    real, reads = getattr(where, name), []
    monkeypatch.setattr(where, name, lambda path: reads.append(path) or real(path))
    def enough(*_): raise ValueError('enough')
    monkeypatch.setattr(ptq_ladder, '_begin', enough)
    monkeypatch.setattr(sensitivity, 'plan', enough)
    base = tiny/'base.pt' if kind == 'ultralytics' else SHIPPED
    code, out, err = answer(main, command, base, '--coco-root', tiny/'coco', '--out', tmp_path/'out',
                            *(['--method', 'rtn'] if command == 'ptq' else []))
    assert (code, reads) == (1, [base])
    assert f"imgsz={160 if kind == 'safetensors' else 640} " in out
    assert ('enough' if kind == 'ultralytics' else 'classes, the data has 2') in err  # the network was built, or refused


def header(path, key, text):
    "A file of tensors that says this of itself."
    save_file({'a': torch.zeros(1)}, path, {key: text} if text is not None else {})
    return path


@pytest.mark.parametrize('read, key', [(load_base, BASE_KEY), (read_packed, PACKED_KEY)])
@pytest.mark.parametrize('text, words', [
    (None, 'has no {key} in its header'), ('{}', '{key} in its header is wrong: '), ('[' * 9999, 'wrong: invalid JSON'),
    (json.dumps({'a': 'x'*HEADER_LENGTH}), f'characters, {HEADER_LENGTH:,} are the most'),
    ('{"names": 3}', '{key} in its header is wrong: ')], ids=['none', 'empty', 'deep', 'long', 'types'])
def test_headers_are_refused_in_the_same_words(read, key, text, words, tmp_path):
    path = header(tmp_path/'x.safetensors', key, text)
    with pytest.raises(CheckpointError) as caught: read(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and words.format(key=key) in said and '\n' not in said and len(said) < 500


def test_the_folder_of_the_sockets_is_tried_once(tmp_path, monkeypatch):
    tried, real = [], launch._takes_sockets
    monkeypatch.setattr(launch, '_takes_sockets', lambda folder: tried.append(folder) or real(folder))
    monkeypatch.setattr(launch.Kernel, 'execute', lambda self, *_: None)
    assert launch.execute(tmp_path/'t.ipynb', {}, tmp_path/'out.ipynb').manager.transport == 'ipc' and len(tried) == 1
    monkeypatch.setattr(launch, '_takes_sockets', lambda folder: False)
    assert launch.execute(tmp_path/'t.ipynb', {}, tmp_path/'out.ipynb').manager.transport == 'tcp'


@pytest.mark.parametrize('text, name, lines', [
    ('epochs: 3\nbatch: 4\nepochs: 5\n', 'epochs', (1, 3)), ('epochs: 3\nepochs: 3\n', 'epochs', (1, 2)),
    ('# a\n"seed": 1\n\nseed: 1\n', 'seed', (2, 4)), ('{seed: 1,\n seed: 2}', 'seed', (1, 2)),
    ('x: {a: 1, a: 2}\n', 'a', (1, 1)), ('"a\\e[2K": 1\n"a\\e[2K": 1\n', 'a\\x1b[2K', (1, 2))])
@pytest.mark.parametrize('read', [load_config, read_recipe])
def test_a_name_stands_once(read, text, name, lines, tmp_path):
    "Of two the last would win, and the first be lost without a word."
    (tmp_path/'a.yaml').write_text(text)
    with pytest.raises(ConfigError) as caught: read(tmp_path/'a.yaml')
    assert f"a.yaml is not YAML: '{name}' stands in line {lines[0]} and again in line {lines[1]}; keep one" in str(caught.value)


def test_names_that_stand_once_are_read(tmp_path):
    (tmp_path/'a.yaml').write_text('epochs: 3\nseed: 3\n')
    assert load_config(tmp_path/'a.yaml').epochs == 3 and read_recipe(RECIPES['scratch'])
