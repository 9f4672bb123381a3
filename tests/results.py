"Figures of README.md and the guides, and where they were read; `python tests/results.py` writes the list in docs/guides/results.md."
import json
import re
from decimal import Decimal

import tomllib

from places import ROOT

REPORTS, GUIDE = ROOT/'reports', ROOT/'docs'/'guides'/'results.md'
TEXTS = [ROOT/'README.md', *sorted((ROOT/'docs'/'guides').glob('*.md'))]
FACTS = ('images', 'imgsz', 'seeds', 'machine', 'date', 'command', 'source', 'what')
PER_STORED = {'min': 1/60}  # stored are seconds
UNITS = '%|ms|s|min|h|seconds?|minutes?|hours?|[kMG]i?B|points?|times'  # 4 bits is a setting, 4.14 a decimal anyway
MARKED = re.compile(r'(?<![\w.,−+-])([−+-]?\d+(?:\.\d+)?(?: (?:±|to) [−+-]?\d+(?:\.\d+)?)?)'  # 0.5, 0.5 ± 0.1, 0.4 to 0.6
                    rf'(?: ?({UNITS}))?(?:\]\([^)\s]*\))?<!-- (\S+) -->')
FIGURE = re.compile(rf'(?<![\w.])\d+(?:\.\d+(?!\w|\.\d)| ?(?:{UNITS})(?!\w))')


def experiments():
    "Name -> experiment; numbers keep the digits they are written with."
    with (REPORTS/'results.toml').open('rb') as f: return tomllib.load(f, parse_float=Decimal)


def figures(experiments):
    "EXPERIMENT.FIGURE -> the figure with what its experiment says."
    return {f'{e}.{f}': facts | figure for e, facts in experiments.items() for f, figure in facts['figures'].items()}


def stored(path):
    "The JSON of a source; a list of values from a .jsonl."
    text = path.read_text(encoding='utf-8')
    return [json.loads(line) for line in text.splitlines()] if path.suffix == '.jsonl' else json.loads(text)


def found(value, way):
    "All that lies at `way` (see results.toml), without what is null."
    values = [value]
    for part in filter(None, way.split('/')): values = [x for v in values for x in members(v, part)]
    return [v for v in values if v is not None]


def members(value, part):
    "What one part of a way leads to."
    if not isinstance(value, (dict, list)): return []
    key, equals, wanted = part.partition('=')
    if equals: return [x for x in (value if isinstance(value, list) else [value]) if str(x.get(key)) == wanted]
    if part == '*': return value if isinstance(value, list) else [*value.values()]
    return [value[k] for k in part.split('|') if k in value]


def numbers(figure, folder=REPORTS):
    "All numbers that the sources have for a figure."
    all_numbers, sign = [], -1 if figure.get('negate') else 1
    for source in figure['source']:
        ways = [f"{figure.get('under', '')}/{figure[k]}" for k in ('at', 'minus') if k in figure]
        first, *second = [found(stored(folder/source), way) for way in ways]
        all_numbers += [a-b for a, b in zip(first, *second, strict=True)] if second else first
    return [sign*x*PER_STORED.get(figure.get('unit'), 1) for x in all_numbers]


def recomputed(figure, folder=REPORTS):
    "What `value`, `spread`, `low` and `high` are, from the sources, as texts with the digits of the figure."
    got = numbers(figure, folder)
    if not got: return 'nothing is stored there'
    if 'low' in figure: result = dict(low=min(got), high=max(got))
    elif 'spread' in figure: result = dict(zip(('value', 'spread'), got, strict=True))
    elif figure.get('mean'): result = dict(value=sum(got)/len(got))
    elif len(got) == 1: result = dict(value=got[0])
    else: return f'{len(got)} numbers are stored there'
    return {k: f'{x:.{max(0, -Decimal(figure[k]).as_tuple().exponent)}f}' for k, x in result.items()}


def listed(figure): return {k: str(figure[k]) for k in ('value', 'spread', 'low', 'high') if k in figure}


def printed(figure):
    "A figure as texts have it, without its unit."
    return (' to ' if 'low' in figure else ' ± ').join(listed(figure).values())


def wrong(text, figures):
    "Marks of a text that name no figure, stand behind no number, or behind another one."
    marks = [m.groups() for m in MARKED.finditer(text)]
    marked = [name for *_, name in marks]
    bad = [f'{c}: no number before it' for c in re.findall(r'<!--\s*(.*?)\s*-->', text, flags=re.S) if c not in marked]
    for number, unit, name in marks:
        figure, said = figures.get(name), number.replace('−', '-').replace('+', '')
        if figure is None: bad.append(f'{name}: not in reports/results.toml')
        elif said != printed(figure): bad.append(f'{name}: the text has {number}, results.toml {printed(figure)}')
        elif unit and unit != figure.get('unit'): bad.append(f"{name}: the text has {unit}, results.toml {figure.get('unit', 'AP')}")
    return bad


def unmarked(text, allowed=()):
    "Figures of a text that have no mark; code, targets of links and what is allowed aside."
    text = re.sub(r'```.*?```|`[^`]*`', '', text, flags=re.S)
    text = re.sub(r'\]\([^)\s]*\)', ']', MARKED.sub('', text))
    for words in allowed: text = text.replace(words, '')
    return [m[0] for m in FIGURE.finditer(text)]


def sources():
    "Markdown: a row for each experiment."
    rows = []
    for name, e in experiments().items():
        files = ', '.join(f"[{s.rpartition('/')[2]}](../../reports/{s})" for s in e['source'])
        commit = f"`{e['commit'][:7]}`" if 'commit' in e else f"stored in `{e['stored'][:7]}`"
        seeds = ', '.join(map(str, e['seeds']))
        rows.append(f"| `{name}` | {e['what']} | {e['images']:,} | {e['imgsz']} | {seeds} | {e['machine']}, {e['date']} | {commit} | {files} |")
    head = '| | what | images | pixels | seeds | machine, day | commit | stored |\n|---|---|--:|--:|---|---|---|---|\n'
    return head + '\n'.join(rows) + '\n'


if __name__ == '__main__':
    text = GUIDE.read_text(encoding='utf-8')
    GUIDE.write_text(re.sub(r'^\| \| what \|.*\n(?:\|.*\n)+', lambda _: sources(), text, flags=re.M), encoding='utf-8')
