"The house rules: notebooks are the source, they run, what they export is what is committed, and nothing in the tree names a machine."
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import render_readme

ROOT = Path(__file__).parents[1]
NBS, LIB = ROOT/'nbs', ROOT/'yolov10_qat'
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if "tutorials" not in p.parts and ".ipynb_checkpoints" not in p.parts)
TUTORIALS = sorted((NBS/'tutorials').glob('*.ipynb'))
TEMPLATES = sorted((LIB/'templates').glob('*.ipynb'))


def by_name(path): return path.name
def flags(cell): return re.findall(r'^#\|\s*(\w+)', cell.source, flags=re.M)


def house_files():
    "Tracked files, and new ones that git does not ignore, relative to the root."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.split('\0') if name and (ROOT/name).is_file()]


# README

def test_readme_is_the_index_notebook():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == render_readme.readme(), 'run: make readme'


def test_render():
    "Prose, code, printed text and values stay; hidden cells and pictures go."
    shown = new_code_cell('1+1', outputs=[new_output('stream', text='hm\n'), new_output('execute_result', data={'text/plain': '2'}),
                                          new_output('display_data', data={'image/png': 'AAAA'})])
    cells = [new_markdown_cell('# a\n'), new_code_cell('#| hide\nimport os'), shown, new_code_cell('x = "```"')]
    assert render_readme.render(new_notebook(cells=cells)) == \
        '# a\n\n```python\n1+1\n```\n\n```\nhm\n2\n```\n\n````python\nx = "```"\n````\n'


@pytest.mark.parametrize('given, shown', [('[a](00_a.ipynb)', '[a](nbs/00_a.ipynb)'), ('![p](images/p.png)', '![p](nbs/images/p.png)'), ('[m](../tests/m.md)', '[m](tests/m.md)'),
                                         ('[w](https://a.b/c)', '[w](https://a.b/c)'), ('[h](#top)', '[h](#top)')])
def test_links_start_in_the_root(given, shown): assert render_readme.from_root(given) == shown


def test_readme_links_lead_somewhere():
    links = [x for x in re.findall(r'\]\(([^)\s]+)\)', render_readme.readme()) if not re.match(r'\w+:|#', x)]
    assert len(links) > 20 and not [x for x in links if not (ROOT/x).exists()]


# Notebooks and what they export

def contents(folder):
    "Bytes of every file below a folder."
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file() and '__pycache__' not in p.parts}


@pytest.mark.parametrize('command', ['nbdev_export', 'nbdev_clean'])
def test_nbdev_changes_nothing(command, tmp_path):
    for name in house_files():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, tmp_path/name)
    before = {d: contents(tmp_path/d) for d in ('nbs', 'yolov10_qat')}
    subprocess.run([Path(sys.executable).with_name(command)], cwd=tmp_path, check=True)
    for d, old in before.items():
        new = contents(tmp_path/d)
        changed = [f'{d}/{name}' for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        assert not changed, f'{command} changes {changed}; run it and look at the difference'


def test_every_module_has_its_notebook():
    exported = set()
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            exported.update(re.findall(r'^#\|\s*default_exp\s+(\S+)', cell.source, flags=re.M))
    modules = {'.'.join(p.relative_to(LIB).with_suffix('').parts) for p in LIB.rglob('*.py')}
    by_hand = {m for m in modules if m.rpartition('.')[2] in ('__init__', '__main__', '_modidx')}
    assert modules - by_hand == exported


def execute(path):
    "Run a notebook top to bottom on a CPU, without the cells that want a GPU, hours or to write into the tree; its code cells with what they said."
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == 'code' and not {'slow', 'cuda'} & {*flags(c)} and 'nbdev_export' not in c.source]
    NotebookClient(notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    return notebook.cells


@pytest.mark.parametrize('path', NOTEBOOKS, ids=by_name)
def test_notebook_runs(path): execute(path)


@pytest.mark.parametrize('path', TUTORIALS, ids=by_name)
def test_tutorial_runs(path):
    "It runs, says nothing on stderr, and leaves pictures with a text for those who do not see them."
    outputs = [o for c in execute(path) for o in c.outputs]
    assert not [o.text for o in outputs if o.get('name') == 'stderr']
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    assert pictures and all(p.metadata.get('image/png', {}).get('alt') for p in pictures)


@pytest.mark.parametrize('path', NOTEBOOKS + TUTORIALS + TEMPLATES, ids=by_name)
def test_no_error_is_kept(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not [o for o in cell.get('outputs', []) if o.output_type == 'error'], f'{path.name} keeps an error below: {cell.source[:80]}'


@pytest.mark.parametrize('path', TEMPLATES, ids=by_name)
def test_template_is_what_papermill_needs(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    assert 'parameters' in code[0].metadata.get('tags', [])
    assert not any(c.outputs or flags(c) for c in code)


def test_clean_keeps_the_tag_of_the_parameters():
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    assert settings['DEFAULT']['allowed_cell_metadata_keys'] == 'tags'


# Nothing in the tree knows where it was made. The words are put together here, so that this file does not find itself.

REGISTRIES = '|'.join(re.escape('.'.join(host)) for host in [
    ('pypi', 'org'), ('python' + 'hosted', 'org'), ('download', 'pytorch', 'org'), ('conda', 'anaconda', 'org'), ('registry', 'npmjs', 'org')])
MACHINE = r'(?<![\w./~$})-])/(?:home|root|Users|work|mnt|opt)/\w'


@pytest.mark.parametrize('pattern', [REGISTRIES, MACHINE], ids=['registry', 'machine-path'])
def test_tree_names_no_machine(pattern):
    found = {str(name): match[0] for name in house_files() if (match := re.search(pattern, (ROOT/name).read_text(encoding='utf-8', errors='ignore')))}
    assert not found


def test_those_patterns_find_something():
    assert re.search(REGISTRIES, 'https://' + '.'.join(['files', 'python' + 'hosted', 'org']) + '/x')
    assert re.search(MACHINE, 'open("' + '/'.join(['', 'home', 'me', 'x']) + '")')
    assert not re.search(MACHINE, 'path/to/home/x, $HOME/work/x, https://host/work/x')
