"Every figure in README.md and the guides has a source. Notebooks, reports/ and benchmarks/, which are sources, are not looked at."
import json
import re
from decimal import Decimal

import pytest

import results

EXPERIMENTS = results.experiments()
FIGURES = results.figures(EXPERIMENTS)
# Where a source says how it was measured
SAID = dict(
    images=('settings/val_images', 'variants/*/arms/*/images', 'dataset/val_images'),
    imgsz=('settings/imgsz', 'variants/*/settings/imgsz', 'training/overrides/imgsz'),
    seeds=('settings/seed', 'variants/*/arms/*/seeds/*', 'training/seed'),
    date=('created_at', 'variants/*/rows/*/created_at'), commit=('git/commit',))
# Numbers that no one measured here: file, words, why
ALLOWED = [
    ('README.md', 'Python 3.11 or 3.12', 'versions that are asked for'),
    ('README.md', 'Python 3.10 to 3.12', 'versions that are asked for'),
    ('README.md', 'PyTorch 2.9', 'a version that is asked for'),
    ('README.md', 'AGPL-3.0', 'the name of a license'),
    ('README.md', '95 % intervals', 'the level of an interval'),
    ('results.md', '95 % intervals', 'the level of an interval'),
    ('compare.md', '95 % interval', 'the level of an interval'),
    ('collapse.md', 'a learning rate (0.012)', 'a setting'),
    ('deploy.md', 'and to 0.001 AP', 'the tolerance of an export'),
    ('deploy.md', 'coremltools 9.0', 'a version'), ('deploy.md', 'Brevitas 0.13', 'a version'),
    ('blood_cells.md', '95 % interval', 'the level of an interval'),
    ('deploy.md', 'torch below 2.15', 'a version'), ('trackers.md', 'MLflow 3.17', 'a version'),
    ('deploy.md', 'has at 0.25', 'the threshold of the float model'),
    ('own_data.md', 'more than 3 % of the boxes', 'the threshold of a warning'),
    ('runs.md', 'PyTorch 2.6', 'a version that is asked for'),
]


# results.toml

@pytest.mark.parametrize('name', FIGURES)
def test_a_figure_is_what_its_source_says(name):
    assert results.recomputed(FIGURES[name]) == results.listed(FIGURES[name]), f"{name}: {FIGURES[name]['source']}"


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_is_described_as_its_source_describes_it(name):
    experiment = EXPERIMENTS[name]
    assert not set(results.FACTS) - experiment.keys()
    sources = [results.stored(results.REPORTS/s) for s in experiment['source']]
    for fact, ways in SAID.items() if isinstance(sources[0], dict) else ():  # rows of a .jsonl do not say it
        said = {str(x)[:10 if fact == 'date' else None] for s in sources for way in ways for x in results.found(s, way)}
        value = experiment.get(fact, [])
        assert said == set(map(str, value if isinstance(value, list) else [value])), fact
    assert re.fullmatch('[0-9a-f]{40}', experiment.get('commit') or experiment['stored'])


def test_the_guide_lists_the_sources(): assert results.sources() in results.GUIDE.read_text(encoding='utf-8'), 'run: python tests/results.py'


# Texts

@pytest.mark.parametrize('path', results.TEXTS, ids=lambda p: p.name)
def test_texts_say_what_is_listed(path): assert not results.wrong(path.read_text(encoding='utf-8'), FIGURES)


@pytest.mark.parametrize('path', results.TEXTS, ids=lambda p: p.name)
def test_every_figure_of_a_text_is_marked(path):
    text, allowed = path.read_text(encoding='utf-8'), [words for name, words, _ in ALLOWED if name == path.name]
    assert not [words for words in allowed if words not in text]
    assert not results.unmarked(text, allowed), 'CONTRIBUTING.md says how to add a figure'


def test_every_figure_is_in_a_text():
    text = ''.join(p.read_text(encoding='utf-8') for p in results.TEXTS)
    assert not [name for name in FIGURES if f'<!-- {name} -->' not in text]


# What finds mistakes, on hand-made ones

LISTED = {'a.x': dict(value=Decimal('0.024')), 'a.y': dict(value=Decimal('8'), unit='min'), 'a.z': dict(low=Decimal('-0.200'), high=Decimal('0.030')),
          'a.s': dict(value=Decimal('0.50'), spread=Decimal('0.01'))}


@pytest.mark.parametrize('text', [
    'it is 0.024<!-- a.x -->.', '[0.024](b.html)<!-- a.x -->', 'in 8 min<!-- a.y -->', '8<!-- a.y -->', '+0.024<!-- a.x -->',
    '(−0.200 to +0.030<!-- a.z -->)', '| 0.50 ± 0.01<!-- a.s --> |', 'from 0.024<!-- a.x --> to 8 min<!-- a.y -->'])
def test_a_right_mark_is_right(text): assert not results.wrong(text, LISTED) and not results.unmarked(text)


@pytest.mark.parametrize('text', [
    '0.025<!-- a.x -->', '0.0240<!-- a.x -->', '0.02<!-- a.x -->', '10.024<!-- a.x -->', '−0.024<!-- a.x -->', '0.024<!-- a.no -->', '0.024 and<!-- a.x -->',
    '<!-- a.x -->', '8 s<!-- a.y -->', '0.024 s<!-- a.x -->', '0.030<!-- a.z -->', '0.200 to 0.030<!-- a.z -->', '0.50 ± 0.02<!-- a.s -->', '0.50<!-- a.s -->', '0.024<!-- see above -->'])
def test_a_wrong_mark_is_found(text): assert results.wrong(text, LISTED)


@pytest.mark.parametrize('text, figures', [
    ('AP 0.123, then 45 % and 5%', ['0.123', '45 %', '5%']), ('8 min, 17 s, 3 ms, 4.5 MB, 40kB', ['8 min', '17 s', '3 ms', '4.5', '40kB']), ('16 times; 5.6 times', ['16 times', '5.6']),
    ('[0.2](0.3.html) −0.1', ['0.2', '0.1']), ('0.1<!-- a.x --> 0.2', ['0.2']), ('`0.1` 8.4.190 4-bit 4 bit v1.2b 1,260 photos\n```\n0.2\n```', []),
    ('ends at 0.5.', ['0.5']), ('12 more, 3 scores, 5 sets', [])])
def test_a_figure_without_a_mark_is_found(text, figures): assert results.unmarked(text) == figures


def test_allowed_words_are_no_figures(): assert results.unmarked('Python 3.11 gives 0.5', ['Python 3.11']) == ['0.5']


@pytest.fixture
def folder(tmp_path):
    "Two draws and a file of rows."
    for i, ap in enumerate((0.25, 0.125)):
        steps = [dict(m='fp', ap=0.5), dict(m='q', ap=ap, gap=dict(low=ap-0.25, high=ap-0.125)), dict(m='none', ap=None)]
        (tmp_path/f'{i}.json').write_text(json.dumps(dict(steps=steps, seconds=450)))
    (tmp_path/'rows.jsonl').write_text('{"m": "a", "ap": 0.75}\n{"m": "b", "ap": 0.5}\n')
    return tmp_path


@pytest.mark.parametrize('source, figure, expected', [
    ('0.json', dict(value='0.5', at='steps/m=fp/ap'), dict(value='0.5')),
    ('0.json', dict(value='0.00', under='steps', at='m=fp/ap', minus='m=q/ap'), dict(value='0.25')),
    ('0.json', dict(value='0', unit='min', at='seconds'), dict(value='8')),
    ('0.json', dict(low='0.000', high='0.000', at='steps/m=q/gap/low|high'), dict(low='0.000', high='0.125')),
    ('0.json 1.json', dict(value='0.0000', mean=True, at='steps/m=q/ap'), dict(value='0.1875')),
    ('0.json 1.json', dict(low='0.000', high='0.000', negate=True, at='steps/m=q/gap/low|high'), dict(low='-0.125', high='0.125')),
    ('0.json', dict(value='0.00', spread='0.000', at='steps/m=q/gap/high|low'), dict(value='0.12', spread='0.000')),
    ('0.json', dict(value='0.5', at='steps/*/ap'), '2 numbers are stored there'),
    ('0.json', dict(value='0.5', at='steps/m=gone/ap'), 'nothing is stored there'),
    ('0.json', dict(value='0.5', at='steps/m=none/ap'), 'nothing is stored there'),
    ('rows.jsonl', dict(value='0.00', at='m=a/ap'), dict(value='0.75'))])
def test_figures_are_read_from_sources(folder, source, figure, expected): assert results.recomputed(figure | dict(source=source.split()), folder) == expected


def test_another_digit_in_a_stored_file_is_seen(folder):
    figure, file = dict(source=['0.json'], value='0.25', at='steps/m=q/ap'), folder/'0.json'
    assert results.recomputed(figure, folder) == results.listed(figure)
    file.write_text(file.read_text().replace('"ap": 0.25', '"ap": 0.26'))
    assert results.recomputed(figure, folder) != results.listed(figure)
