"A layer or class with a name of 300 letters: the name is shortened beside the axes, and the axes keep their room."
import csv
import io
import json
import warnings

import pytest
from matplotlib import rc_context

from fake_run import make_run
from yolov10_qat.report.figures import figures
from yolov10_qat.report.style import RC, _inches, fitting

TABLES = {'oscillation.csv': 'layer', 'batchnorm.csv': 'layer', 'sensitivity.csv': 'part'}


def rename(root, start):
    "Every layer of a run."
    for name, column in TABLES.items():
        rows = list(csv.reader(io.StringIO((root/name).read_text())))
        at = rows[0].index(column)
        for row in rows[1:]: row[at] = f'{start}{row[at]}'
        with open(root/name, 'w', newline='') as f: csv.writer(f).writerows(rows)
    histories = json.loads((root/'oscillation.json').read_text())
    for layer in histories['distance']['layers']: layer['layer'] = f"{start}{layer['layer']}"
    (root/'oscillation.json').write_text(json.dumps(histories))


@pytest.fixture(scope='module', params=['W', 'l', '人'])
def drawn(request, tmp_path_factory):
    "Figure, title and alt text by name; wide letters, narrow ones, and some that the font lacks."
    start = request.param*300
    root = make_run(tmp_path_factory.mktemp('long')/'run', method='ema+qc', classes=[f'{start}{i}' for i in range(5)], measured=True)
    rename(root, start)
    names = ['oscillating', 'thresholds', 'scales', 'batchnorm', 'sensitivity', 'classes', 'sizes']
    with rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph')
        warnings.filterwarnings('error', message='.*collapsed')
        found = {name: (figure, title, alt) for name, title, alt, figure in figures(root, names)}
        for figure, *_ in found.values(): figure.draw_without_rendering()
    assert set(found) == set(names)
    return found


@pytest.mark.parametrize('name', ['oscillating', 'scales', 'batchnorm', 'sensitivity', 'classes', 'sizes'])
def test_the_axes_take_more_than_half_of_the_figure(drawn, name):
    figure, *_ = drawn[name]
    assert figure.axes[0].get_position().width > .5 and figure.axes[0].get_position().height > .3


@pytest.mark.parametrize('name', ['oscillating', 'sensitivity', 'classes'])
def test_names_on_the_axis_are_short_and_still_differ(drawn, name):
    labels = [text.get_text() for text in drawn[name][0].axes[0].get_yticklabels()]
    assert len(labels) > 2 and all(label.count('…') == 1 for label in labels)
    if name != 'oscillating': assert len({*labels}) == len(labels)


@pytest.mark.filterwarnings('ignore:Glyph')
def test_a_panel_a_legend_and_the_words_beside_them(drawn):
    "The title of a panel ends within its panel; the alt text has the name as it was read."
    figure, _, alt = drawn['thresholds']
    first, second = figure.axes[:2]
    assert '…' in second.get_title(loc='left') and ' ... ' in alt and '…' not in alt
    ends = [ax.get_window_extent().x1 for ax in (first, second)]
    titles = [ax._left_title.get_window_extent().x1 for ax in (first, second)]
    assert titles[0] <= ends[0] and titles[1] <= figure.bbox.width
    figure, _, alt = drawn['scales']
    legend = figure.axes[0].get_legend()
    assert legend.get_window_extent().x1 <= figure.bbox.width
    assert '…' not in alt and alt.count(' ... ') == 4


def test_what_fits():
    assert fitting('model.22.m.0.cv1.conv', 2.) == 'model.22.m.0.cv1.conv'
    short = fitting('model.22.m.0.cv1.conv', 1.)
    assert short.startswith('model.') and short.endswith('conv') and short.count('…') == 1
    assert len(fitting('W'*50, 2.)) < len(fitting('W'*50, 2., 'small')) < len(fitting('l'*300, 2.))
    assert fitting('a\nb\x1b', 2.) == r'a\nb\x1b' and fitting('W'*9, 0.) == '…' and fitting('', 1.) == ''
    width = fitting('W'*50, 1.)
    assert fitting(width, 1.) == width != fitting('W'*50, 1.2)  # it fits, and there was no room for more
    for letter in 'Wwl':
        for room in (.3, .7, 1., 1.65, 2.1): assert room-.3 < _inches(fitting(letter*60, room), 'medium') <= room
