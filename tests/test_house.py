"The house rules: notebooks are the source, they run, they fit, imports go one way, links lead somewhere, nothing names a machine."
import ast
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
from notebooks import run_apart
from places import ROOT, SHARED

NBS, LIB = ROOT/'nbs', ROOT/'yolov10_qat'
LEFT = {'.ipynb_checkpoints', '_runs'}  # what JupyterLab and a tutorial leave behind; git ignores it
ALL = sorted(p for p in NBS.rglob('*.ipynb') if LEFT.isdisjoint(p.parts))
TUTORIALS = [p for p in ALL if p.parent.name == 'tutorials']
NOTEBOOKS = [p for p in ALL if p not in TUTORIALS]
TEMPLATES = sorted((LIB/'templates').glob('*.ipynb'))


def by_name(path): return path.relative_to(ROOT).with_suffix('').as_posix().removeprefix('nbs/')
def flags(cell): return re.findall(r'^#\|\s*(\w+)', cell.source, flags=re.M)


def house_files():
    "Tracked files, and new ones that git does not ignore, relative to the root."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.split('\0') if name and (ROOT/name).is_file()]


# README

def test_readme_is_the_index_notebook():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == render_readme.readme(), 'run: make readme'


def test_render():
    "Prose, code, printed text and values stay; hidden cells and pictures go."
    shown = new_code_cell('1+1',
                          outputs=[new_output('stream', text='hm\n'),
                                   new_output('execute_result', data={'text/plain': '2'}),
                                   new_output('display_data', data={'image/png': 'AAAA'})])
    cells = [new_markdown_cell('# a\n'), new_code_cell('#| hide\nimport os'), shown, new_code_cell('x = "```"')]
    assert render_readme.render(new_notebook(cells=cells)) == \
        '# a\n\n```python\n1+1\n```\n\n```\nhm\n2\n```\n\n````python\nx = "```"\n````\n'


@pytest.mark.parametrize('given, shown',
                         [('[a](00_a.ipynb)', '[a](nbs/00_a.ipynb)'), ('![p](images/p.png)', '![p](nbs/images/p.png)'),
                          ('[m](../tests/m.md)', '[m](tests/m.md)'), ('[w](https://a.b/c)', '[w](https://a.b/c)'),
                          ('[h](#top)', '[h](#top)')])
def test_links_start_in_the_root(given, shown): assert render_readme.from_root(given) == shown


# Links

def headings(text):
    "Anchors of a page, as its readers make them: lower case, hyphens for spaces."
    return {re.sub(r'[^\w\- ]', '', line.lstrip('# ')).strip().lower().replace(' ', '-') for line in text.splitlines()
            if line.startswith('#')}


def prose(path):
    "Text of a page or of the markdown cells of a notebook, code aside."
    if path.suffix != '.ipynb': return re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.S | re.M)
    return '\n'.join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'markdown')


def dead_links(path):
    "Relative links of a page that lead nowhere."
    dead = []
    for link in re.findall(r'\]\(([^)\s]+)\)', prose(path)):
        file, _, anchor = link.partition('#')
        if re.match(r'\w+:', link): continue
        target = path.parent/file if file else path
        if not target.exists() or anchor and anchor not in headings(prose(target)): dead.append(link)
    return dead


PAGES = [p for name in house_files() if (p := ROOT/name).suffix == '.md' and 'examples' not in p.parts]

@pytest.mark.parametrize('path', ALL + PAGES, ids=by_name)
def test_links_lead_somewhere(path): assert not dead_links(path)


def test_there_are_links_to_follow():
    counts = [len(re.findall(r'\]\((?!\w+:)[^)\s]+\)', prose(p))) for p in (ROOT/'README.md', *NOTEBOOKS)]
    assert counts[0] > 20 and sum(counts[1:]) > 20


def test_a_dead_link_is_found(tmp_path):
    (tmp_path/'a.md').write_text('# One\n[b](b.md) [c](c.md) [one](#one) [two](#two) '
                                 '[w](https://a.b/c)\n```\n[x](x.md)\n```\n')
    (tmp_path/'c.md').write_text('')
    assert dead_links(tmp_path/'a.md') == ['b.md', '#two']


# Density: cells that fit a screen, lines that fit a column. The lists only shrink.

WIDEST, USUAL, LONGEST = 120, 20, 40  # characters; lines of a cell, lines of any cell
MAY_BE_LONG = .1                      # share of cells over the usual length
WIDE_CELLS:set[str] = set()           # notebooks with a line that is too wide
LONG_CELLS:set[str] = set()           # notebooks with a cell that is too long


def code_cells(path): return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']


def only_imports(source):
    "Import cells may be as long as they need to be: a name a line."
    kinds = (ast.Import, ast.ImportFrom, ast.If, ast.Try)
    return all(isinstance(n, kinds) for n in ast.parse(source).body) and 'import' in source


def lengths(path):
    "Lines of the cells that are no list: neither imports nor the parameters of a template, a line each."
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    return [len(c.source.splitlines()) for c in cells if not only_imports(c.source) and 'parameters' not in c.metadata.get('tags', [])]


@pytest.mark.parametrize('path', ALL + TEMPLATES, ids=by_name)
def test_lines_fit(path):
    wide = [line[:60] for source in code_cells(path) for line in source.splitlines() if len(line) > WIDEST]
    assert bool(wide) == (by_name(path) in WIDE_CELLS), wide


def test_lines_of_the_package_fit():
    files = [p for p in LIB.rglob('*.py') if p.name != '_modidx.py']
    wide = [f'{p.relative_to(LIB)}: {line[:40]}' for p in files for line in p.read_text(encoding='utf-8').splitlines()
            if len(line) > WIDEST and not line.startswith('__all__')]  # which nbdev wraps, by its own measure
    assert not wide


@pytest.mark.parametrize('path', ALL + TEMPLATES, ids=by_name)
def test_cells_fit(path):
    long = [n for n in lengths(path) if n > LONGEST]
    assert bool(long) == (by_name(path) in LONG_CELLS), long


def test_cells_are_short_as_a_rule():
    found = [n for path in ALL for n in lengths(path)]
    assert len(found) > 900 and sum(n > USUAL for n in found) < MAY_BE_LONG*len(found)


# Rooms: the numbers of the folders are the order in which data flows; a module imports from its own room and from those before it

ROOMS = [p.name[3:] for p in sorted(NBS.iterdir()) if p.is_dir() and p.name[:2].isdecimal()]


def rooms_imported(file):
    "Rooms that a module imports from, and modules of its own room, wherever the import stands."
    here = file.relative_to(LIB).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom): continue
        words = (node.module or '').split('.')
        if node.level: words = [*here[:len(here)-node.level+1], *words]
        elif words[0] == 'yolov10_qat': words = words[1:]
        else: continue
        if words[0] in ROOMS: yield words[0]


def upward(file):
    room = file.relative_to(LIB).parts[0]
    return [r for r in rooms_imported(file) if room in ROOMS and ROOMS.index(r) > ROOMS.index(room)]


@pytest.mark.parametrize('room', ROOMS)
def test_imports_go_one_way(room):
    assert not {p.name: up for p in sorted((LIB/room).glob('*.py')) if (up := upward(p))}


def test_an_import_against_the_flow_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'LIB', tmp_path)
    (tmp_path/'core').mkdir()
    (tmp_path/'core'/'a.py').write_text('def f():\n    from ..report.page import render\n    from .errors import '
                                        'nearest\n')
    assert upward(tmp_path/'core'/'a.py') == ['report']


def test_a_notebook_exports_what_its_path_says():
    for path in NOTEBOOKS:
        module = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(code_cells(path)), flags=re.M)
        expected = '.'.join(re.sub(r'^\d\d_', '', part) for part in path.relative_to(NBS).with_suffix('').parts)
        assert path.stem == 'index' or module[1] == expected


def test_numbers_count_within_a_folder():
    for folder in {p.parent for p in ALL}:
        numbers = [p.name[:2] for p in folder.glob('*.ipynb') if p.name[:2].isdecimal()]
        assert len(numbers) == len(set(numbers)), folder


# One name, one thing

SAME_NAME:set[str] = set()  # public names that several modules may define


def test_a_public_name_has_one_home():
    homes = {}
    for file in [p for p in LIB.rglob('*.py') if p.name != 'cli.py']:  # a command may have the name of what it calls
        listed = re.search(r'__all__ = (\[.*?\])', file.read_text(encoding='utf-8'), flags=re.S)
        for name in ast.literal_eval(listed[1]) if listed else []:
            homes.setdefault(name, []).append(file.relative_to(LIB).as_posix())
    twice = {name: files for name, files in homes.items() if len(files) > 1}
    assert twice.keys() <= SAME_NAME, {k: v for k, v in twice.items() if k not in SAME_NAME}


MANY = 6  # parameters that may be given by position


def test_functions_take_few_positional_parameters():
    many = []
    for file in LIB.rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.FunctionDef): continue
            given = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ('self', 'cls')]
            if len(given) > MANY: many.append(f'{file.relative_to(LIB)}: {node.name}')
    assert not many


# Notebooks and what they export

def contents(folder):
    "Bytes of every file below a folder."
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()
            and '__pycache__' not in p.parts}


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
    by_hand = {m for m in modules if m.rpartition('.')[2] in ('__init__', '__main__', '_modidx', '_moved')}
    assert modules - by_hand == exported


NOTEBOOK_S = 800  # less than the limit of a test, for a machine that is busy


def runnable(path):
    "A notebook's code without the cells that want a GPU, hours or to write into the tree."
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if c.cell_type == 'code' and not {'slow', 'cuda'} & {*flags(c)}
                      and 'nbdev_export' not in c.source]
    return notebook


@pytest.mark.parametrize('path', NOTEBOOKS, ids=by_name)
def test_notebook_runs(path, tmp_path):
    "Top to bottom on a CPU."
    sources = [c.source for c in runnable(path).cells]
    status, said = run_apart(sources, path.parent, tmp_path/'said.txt', NOTEBOOK_S)
    assert status == 0, said[-3000:]
    uses_shared = SHARED.is_dir() and any('SHARED' in source for source in sources)
    assert not uses_shared or 'skipped: ../shared' not in said, 'the data is there and was not used'


@pytest.mark.parametrize('cell, status', [('x = 1', 0), ('1/0', 1), ('import os; os.kill(os.getpid(), 9)', -9)])
def test_a_notebook_that_fails_is_told_of(cell, status, tmp_path):
    found, said = run_apart(['print("hm")', cell, 'print("end")'], tmp_path, tmp_path/'said.txt', NOTEBOOK_S)
    assert found == status and 'hm' in said and ('end' in said) == (status == 0) and ('ZeroDivisionError' in said) == (status == 1)


def test_a_notebook_that_hangs_is_ended(tmp_path):
    assert run_apart(['import time; time.sleep(1000)'], tmp_path, tmp_path/'said.txt', 1)[0] == -9


def execute(path):
    "Run a notebook in a kernel; its code cells with what they said."
    notebook = runnable(path)
    NotebookClient(notebook, timeout=NOTEBOOK_S, kernel_name='python3',
                   resources={'metadata': {'path': str(path.parent)}}).execute()
    return notebook.cells


@pytest.mark.parametrize('path', TUTORIALS, ids=by_name)
def test_tutorial_runs(path):
    "It runs, says nothing on stderr, and leaves pictures with a text for those who do not see them."
    outputs = [o for c in execute(path) for o in c.outputs]
    assert not [o.text for o in outputs if o.get('name') == 'stderr']
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    assert pictures and all(p.metadata.get('image/png', {}).get('alt') for p in pictures)


def test_what_a_tutorial_writes_is_not_seen_by_git():
    subprocess.run(['git', 'check-ignore', '-q', 'nbs/tutorials/_runs/first/run.log'], cwd=ROOT, check=True)


@pytest.mark.parametrize('path', NOTEBOOKS + TUTORIALS + TEMPLATES, ids=by_name)
def test_no_error_is_kept(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not [o for o in cell.get('outputs', []) if o.output_type
                    == 'error'], f'{path.name} keeps an error below: {cell.source[:80]}'


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

REGISTRIES = '|'.join(re.escape('.'.join(host))
                      for host in [('pypi', 'org'), ('python' + 'hosted', 'org'), ('download', 'pytorch', 'org'),
                                   ('conda', 'anaconda', 'org'), ('registry', 'npmjs', 'org')])
MACHINE = r'(?<![\w./~$})-])/(?:home|root|Users|work|mnt|opt)/\w'


@pytest.mark.parametrize('pattern', [REGISTRIES, MACHINE], ids=['registry', 'machine-path'])
def test_tree_names_no_machine(pattern):
    found = {str(name): match[0] for name in house_files()
             if (match := re.search(pattern, (ROOT/name).read_text(encoding='utf-8', errors='ignore')))}
    assert not found


def test_those_patterns_find_something():
    assert re.search(REGISTRIES, 'https://' + '.'.join(['files', 'python' + 'hosted', 'org']) + '/x')
    assert re.search(MACHINE, 'open("' + '/'.join(['', 'home', 'me', 'x']) + '")')
    assert not re.search(MACHINE, 'path/to/home/x, $HOME/work/x, https://host/work/x')
