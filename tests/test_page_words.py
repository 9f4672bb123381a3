"What a reader sees of a page: a command that keeps its flags whole, words that fit their number, facts that fit a telephone."
import re
from html import unescape

import pytest

from fake_run import make_run
from many_runs import store, vary
from yolov10_qat.compare.figures import comparison_figures
from yolov10_qat.compare.runs import find_runs
from yolov10_qat.compare.summary import compare
from yolov10_qat.core.class_order import match_classes
from yolov10_qat.report import page
from yolov10_qat.report.page import render
from yolov10_qat.report.read import read_run
from yolov10_qat.report.rows import reproduce_command, resume_command


@pytest.fixture(autouse=True)
def no_figures(monkeypatch): monkeypatch.setattr(page, '_draw_all', lambda *_: {})


def commands(html):
    "Words of each block of code; a browser keeps what is in one `code` on one line."
    blocks = re.findall('<pre>(.*?)</pre>', html, re.S)
    for block in blocks: assert re.fullmatch('<code>[^<]*</code>( <code>[^<]*</code>)*', block)
    return [[unescape(word) for word in re.findall('<code>(.*?)</code>', block)] for block in blocks]


def test_a_command_breaks_between_its_words(tmp_path):
    whole, broken = make_run(tmp_path/'a run'), make_run(tmp_path/"it's <b>", stage='training')
    config = read_run(whole).config
    assert commands(render(whole).read_text()) == [reproduce_command(config).split(' ')]
    assert commands(render(broken).read_text())[0] == resume_command(read_run(broken)).split(' ')
    assert any(word.startswith('--') and '-' in word[2:] for word in commands(render(whole).read_text())[0])
    assert re.search(r'pre code, p code \{[^}]*display:inline-block', render(whole).read_text())


@pytest.mark.parametrize('have, words', [
    (['traffic_light', 'dog'], 'base.pt: 1 of 2 classes is spelled otherwise ('), (['traffic_light', 'Dog'], 'base.pt: 2 of 2 classes are spelled'),
    (['dog', 'traffic_light'], 'base.pt: 2 of 2 classes stand in another order than in the data and 1 is spelled otherwise ('),
    (['Dog', 'traffic_light'], 'stand in another order than in the data and 2 are spelled otherwise (')])
def test_one_is_and_two_are(have, words):
    assert words in match_classes(have, ['traffic light', 'dog'], 'weights/base.pt').note


@pytest.mark.parametrize('seeds, words', [((0,), 'of 1 interval '), ((0, 1), 'of 2 intervals ')])
def test_one_interval_and_two_intervals(tmp_path, seeds, words):
    runs, _ = find_runs([store(tmp_path, *[vary(method='ema+qc', seed=seed, run_id=f'r{seed}') for seed in seeds])])
    title, = [title for name, title, *_ in comparison_figures(compare(runs), runs) if name == 'forest']
    assert words in title and re.search('(1 is|[02] are) above 0, [0-2] below', title)
