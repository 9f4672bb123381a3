"""What the site adds to the stored pages: the sidebar, a page for each room, notebooks without what only nbdev needs.
Sources are parsed, not imported, so that the site needs no PyTorch."""
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT = {'.ipynb_checkpoints', '_runs'}  # what JupyterLab and a tutorial leave behind
# In the order of reading
GUIDES = ('runs', 'own_data', 'blood_cells', 'calibrate', 'scratch', 'compare', 'trackers', 'deploy', 'collapse',
          'troubleshooting', 'results')
PROJECT = ('CONTRIBUTING', 'SECURITY', 'CHANGELOG', 'reports/README', 'benchmarks/README', 'tests/manual/README')


def notebooks():
    "Every notebook but the index, which is the home page, as paths from the root without the ending."
    found = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if LEFT.isdisjoint(p.parts) and p.stem != 'index')
    return [p.relative_to(ROOT).with_suffix('').as_posix() for p in found]


def modules():
    "Room -> its notebooks; the command, which is a notebook beside the rooms, is a room of its own."
    rooms = {}
    for path in notebooks():
        room = path.removeprefix('nbs/').partition('/')[0]
        if room != 'tutorials': rooms.setdefault(room, []).append(path)
    return rooms


def short(name): return re.sub(r'^\d\d_', '', name)


def purposes():
    "Room -> what goes there, from the table in CONTRIBUTING.md."
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    return dict(re.findall(r'^ *\| `(\d\d_\w+)` \| (.+) \|$', text, flags=re.M))


# Notebooks

def unlinked(output):
    "An output without its links: they lead into the folder of a run that is not here."
    data = output.get('data', {})
    if 'text/html' not in data: return output
    return output | dict(data=data | {'text/html': re.sub(r'</?a\b[^>]*>', '', ''.join(data['text/html']))})


def read_cell(cell):
    "A code cell for readers: without directives and, if flagged `hide`, without display; pictures keep their text."
    source = ''.join(cell['source'])
    flags, tags = re.findall(r'^#\|\s*(\w+)', source, flags=re.M), cell['metadata'].get('tags', [])
    rest = re.sub(r'^#\|.*\n?', '', source, flags=re.M)
    if 'hide' in flags or not rest.strip(): tags = [*tags, 'remove-cell']
    texts = [alt for o in cell['outputs'] if (alt := o.get('metadata', {}).get('image/png', {}).get('alt'))]
    options = {'mystnb': {'image': {'alt': ' '.join(texts)}}} if texts else {}
    return cell | dict(source=rest.strip('\n'), outputs=[*map(unlinked, cell['outputs'])],
                       metadata=cell['metadata'] | dict(tags=tags) | options)


def shown(text):
    "The JSON of a notebook as the site shows it."
    notebook = json.loads(text)
    notebook['cells'] = [read_cell(c) if c['cell_type'] == 'code' else c for c in notebook['cells']]
    return json.dumps(notebook)


# Sidebar

def toctree(paths, caption=None):
    "A table of contents that only the sidebar shows; paths from the root."
    words = [f':caption: {caption}'] if caption else []
    return '\n'.join(['', '```{toctree}', ':hidden:', *words, '', *(f'/{p}' for p in paths), '```', ''])


def sidebar():
    "The tables that are put behind the home page."
    tutorials = [p for p in notebooks() if p.startswith('nbs/tutorials/')]
    rooms = [f'docs/rooms/{short(room)}' for room in modules()]
    return ''.join([toctree(tutorials, 'Tutorials'), toctree([f'docs/guides/{g}' for g in GUIDES], 'Guides'),
                    toctree(rooms, 'Rooms'), toctree(PROJECT, 'Project')])


def reports():
    "Pages of the stored results, the newest first; their list is the page of the folder."
    found = sorted((ROOT/'reports').glob('*/*.md'), reverse=True)
    return [p.relative_to(ROOT).with_suffix('').as_posix() for p in found]


# API by room

def module_file(path):
    "The module that a notebook exports."
    return (ROOT/'yolov10_qat').joinpath(*map(short, path.split('/')[1:])).with_suffix('.py')


def begins(node):
    "First line of a definition, its decorators included."
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def head_end(node, lines):
    "Last line of a function's signature and docstring; of a body that stands behind the colon, the whole line."
    first = node.body[0]
    if ast.get_docstring(node) is not None: return first.end_lineno
    return first.lineno-1 if not lines[first.lineno-1][:first.col_offset].strip() else first.lineno


def outline(node, lines):
    "Signature and docstring of a definition; of a class also its fields, and the same of its public methods."
    if isinstance(node, ast.FunctionDef): return lines[begins(node)-1:head_end(node, lines)]
    inner = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    kept = lines[begins(node)-1:begins(inner[0])-1 if inner else node.end_lineno]
    for n in inner:
        if not n.name.startswith('_'): kept = [*kept, '', *outline(n, lines)]
    return kept


def defined(tree):
    "Name -> the statement of a module that gives it."
    named = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for n in tree.body:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        named.update((part.id, n) for t in targets for part in ast.walk(t) if isinstance(part, ast.Name))
    return named


def listed(tree):
    "Public names of a module, in the order of its notebook."
    known = defined(tree)
    names = ast.literal_eval(known['__all__'].value) if '__all__' in known else []
    return sorted((n for n in names if n in known), key=lambda n: known[n].lineno)


MOST = 12  # lines of a constant


def source(node, lines):
    "What the page shows of the statement that gives a name."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return outline(node, lines)
    kept = lines[node.lineno-1:node.end_lineno]
    return kept if len(kept) <= MOST else [*kept[:MOST], '    ...']


def api(path):
    "What a module is for, and its public names as Markdown: signature and docstring of each."
    text = module_file(path).read_text(encoding='utf-8')
    tree, lines = ast.parse(text), text.splitlines()
    known, names = defined(tree), listed(tree)
    blocks = []
    for node in dict.fromkeys(known[n] for n in names):
        title, shown = ', '.join(n for n in names if known[n] is node), '\n'.join(source(node, lines)).strip()
        blocks.append(f'### {title}\n\n````python\n{shown}\n````\n')
    return ast.get_docstring(tree) or '', '\n'.join(blocks)


def room_page(room, paths):
    "Markdown of the page of a room."
    purpose = purposes()[room]
    head = [f'# {short(room)}', '', f'{purpose[:1].upper()}{purpose[1:]}.', '']
    for path in paths:
        purpose, names = api(path)
        head += [f'## {module_file(path).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")}', '',
                 f'{purpose} [Open the notebook](/{path}.ipynb).', '', names]
    return '\n'.join(head) + toctree(paths)


def write_rooms():
    "A page for each room in docs/rooms/, which git ignores; Sphinx reads again only what has changed."
    folder = ROOT/'docs'/'rooms'
    folder.mkdir(exist_ok=True)
    pages = {folder/f'{short(room)}.md': room_page(room, paths) for room, paths in modules().items()}
    for file in folder.glob('*.md'):
        if file not in pages: file.unlink()
    for file, text in pages.items():
        if not file.is_file() or file.read_text(encoding='utf-8') != text: file.write_text(text, encoding='utf-8')
