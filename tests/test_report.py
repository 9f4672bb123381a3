"The report, read back as a browser would: verdict, figures, links, escaping, and every state a run can be left in."
import base64
import re
import shlex
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import pytest

from fake_run import EPOCHS, make_run, write_oscillation, write_sensitivity
from yolov10_qat.core.config import RunConfig, load_config
from yolov10_qat.report import page as report
from yolov10_qat.report.card import story
from yolov10_qat.report.figures import figures
from yolov10_qat.report.page import render, write_summary_md
from yolov10_qat.report.read import read_run
from yolov10_qat.report.rows import artefact_rows, reproduce_command, rung_rows
from yolov10_qat.report.style import keep_figures
from yolov10_qat.runs.results import Stability
from yolov10_qat.runs.summary import ShareInterval, load_summary, save_summary
from yolov10_qat.runs.worth import worth_of

SECTIONS = ['result', 'curves', 'dynamics', 'classes', 'weights', 'examples', 'data', 'layers', 'parameters',
            'environment', 'reproduce', 'artefacts', 'timings']
VOID = {'meta', 'link', 'img', 'br', 'hr', 'input'}


class Page(HTMLParser):
    "Tags with attributes, text by heading, ids, and whether every tag is closed."
    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID: self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}> closes another tag'

    def handle_data(self, data):
        if 'style' not in self.open: self.texts.append(('h1' if 'h1' in self.open else self.open[-1] if self.open else '', data))

    def all(self, tag): return [attrs for name, attrs in self.tags if name == tag]
    def text(self, tag=None):
        return ' '.join(' '.join(data for inside, data in self.texts if tag in (None, inside)).split())


def page_of(root):
    file = render(root)
    html = file.read_text(encoding='utf-8')
    assert file.stat().st_size < 2_000_000
    return Page(html), html


@pytest.fixture
def no_figures(monkeypatch):
    "For tests that read words: drawing is most of the time."
    monkeypatch.setattr(report, '_draw_all', lambda *_: {})


def check_offline(page, html):
    "No address but an anchor, a data URI or a relative path; nothing that runs."
    assert not page.all('script') and not page.all('iframe')
    for name, attrs in page.tags:
        assert not [k for k in attrs if k.startswith('on')], (name, attrs)
        for key in ('src', 'href'):
            if key in attrs: assert re.match(r'#|data:|(?![a-z]+:|/)', attrs[key]), (name, attrs[key])
    styles = re.search('<style>(.*?)</style>', html, re.S)[1]
    assert 'url(' not in styles and '@import' not in styles
    svgs = [base64.b64decode(a['src'].partition(',')[2]).decode() for a in page.all('img')
            if a['src'].startswith('data:image/svg')]
    for svg in svgs: assert not re.search(r'(href|src)="(?!#|data:image/png;base64,)|url\((?!#)|<script|@import', svg)


def check_readable(page, html, sections=SECTIONS):
    "Each picture speaks, each anchor leads somewhere, each table scrolls in its own box."
    for image in page.all('img'):
        assert re.search(r'\d', image['alt']) and image['alt'].endswith('.'), image['alt']
        assert image['src'].startswith('data:image/')
    ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
    assert len(ids) == len(set(ids)) and [i for i in ids if i in sections] == sections
    assert [a['href'][1:] for a in page.all('a') if a['href'].startswith('#')] == sections
    assert len(re.findall(r'<div class="scroll[^>]*><table', html)) == len(page.all('table'))


STATES = [dict(), dict(method='ema+qc'), dict(method='qc', epochs=1), dict(method='baseline'),
          dict(outcome='collapsed'), dict(outcome='degenerate'), dict(epochs=1), dict(stage='training'),
          dict(stage='training', method='baseline'), dict(stage='before'), dict(stage='start'), dict(tracked=False),
          dict(measured=True), dict(method='freeze')]


@pytest.mark.parametrize('state', STATES, ids=lambda s: '-'.join(map(str, s.values())) or 'stable')
def test_page_of_every_state(tmp_path, state):
    root = make_run(tmp_path/'run', **state)
    page, html = page_of(root)
    check_offline(page, html)
    at = SECTIONS.index('layers')+1
    sections = SECTIONS[:at]+['sensitivity']+SECTIONS[at:] if state.get('measured') else SECTIONS
    whole, after = state.get('stage', 'complete') == 'complete', sections.index('classes')+1
    check_readable(page, html, [sections[0], 'files', *sections[1:after], 'confidence', *sections[after:]] if whole
                   else sections)
    drawn = [name for name, *_ in figures(root)]
    assert sorted(p.name for p in (root/'figures').iterdir()) == sorted(
        f'{n}.{kind}' for n in drawn for kind in ('svg', 'png'))
    for link in page.all('a'):
        if not link['href'].startswith('#'): assert (root/link['href']).is_file(), link


HELD, KEEPS = 'STABLE: the final score is 99% of the best', 'QAT EMA, delivered, keeps'
BELOW = 'QAT EMA, the last state, is below the start of training:'


@pytest.mark.parametrize('state,headline',
                         [(dict(), [HELD, 'QAT EMA, delivered, keeps 74% of FP32: red, below 85%']),
                          (dict(method='baseline'), [HELD, 'QAT raw, delivered, keeps 74% of FP32: red, below 85%']),
                          (dict(outcome='collapsed'), ['COLLAPSED to 6% of its best', f'{KEEPS} 4% of FP32: red, below 85%',
                                                       f'{BELOW} AP 0.012 after 0.025 (PTQ)']),
                          (dict(outcome='degenerate'), ['NEVER LEARNED (degenerate)', f'{KEEPS} 0% of FP32: red, below 85%',
                                                        f'{BELOW} AP 0.000 after 0.025 (PTQ)']),
                          (dict(stage='training'), [f'INCOMPLETE after {EPOCHS//2} of {EPOCHS} epochs']),
                          (dict(stage='start'), [f'INCOMPLETE after 0 of {EPOCHS} epochs'])])
def test_verdict_comes_first(tmp_path, no_figures, state, headline):
    page, _ = page_of(make_run(tmp_path/'run', **state))
    assert page.text('h1') == ' '.join(headline)
    assert write_summary_md(tmp_path/'run').read_text().startswith(f'# {". ".join(headline)}\n')


def test_verdict_carries_its_numbers(tmp_path, no_figures):
    page, _ = page_of(make_run(tmp_path/'run', outcome='collapsed'))
    for part in ('Best mAP50-95 0.206 at epoch 3, final 0.012', 'ratio of 0.06, below the threshold of 0.5',
                 '8 validation images', 'one2one head', 'Ultralytics validator', 'pycocotools'):
        assert part in page.text()


def test_stable_far_below_floating_point_is_not_praised(tmp_path, no_figures):
    root = make_run(tmp_path/'run')
    summary = load_summary(root)
    for rung in summary.metrics.rungs:
        if rung.rung.startswith('qat'): rung.AP = .003
    save_summary(summary, root)
    page, html = page_of(root)
    assert f'{HELD} {KEEPS} 1% of FP32: red' in page.text('h1') and 'class="verdict bad"' in html


def outcome_of(root, ratio=.98, interval=None, **aps):
    "Headline, its tones and both texts of a run with such scores."
    make_run(root, 'ema+qc')
    summary = load_summary(root)
    for rung in summary.metrics.rungs: rung.AP = aps.get(rung.rung, rung.AP)
    summary.stability = Stability(final_over_best_ratio=ratio, collapsed=ratio < .5)
    summary.status = 'completed-failed' if ratio < .5 else 'completed-success'
    if interval: summary.worth = worth_of(summary, ShareInterval(images=8, resamples=300, level=.95, **interval))
    save_summary(summary, root)
    page, html = page_of(root)
    lines = re.findall('<span class="(ok|warn|bad|plain)">(.*?)</span>', html.split('<h1>')[1].split('</h1>')[0])
    assert story(summary)[-len(lines):] == [f'{text}.' for _, text in lines]  # the last lines of the terminal
    return dict((text, tone) for tone, text in lines), page.text()


@pytest.mark.parametrize('share, tone, words', [
    (.54, 'bad', '54% of FP32: red, below 85%'), (.85, 'warn', '85% of FP32: amber, 85% to 97%'),
    (.969, 'warn', '96.9% of FP32: amber, 85% to 97%'), (.97, 'ok', '97% of FP32: green, 97% or more')])
def test_what_it_is_worth_is_not_whether_it_held(tmp_path, no_figures, share, tone, words):
    lines, _ = outcome_of(tmp_path/'run', fp=.5, ptq=.1, qat_raw=.5*share, qat_ema=.5*share, qc=.5*share)
    assert lines == {'STABLE: the final score is 98% of the best': 'ok', f'QC, delivered, keeps {words}': tone}


def test_a_collapse_is_one_whatever_the_model_is_worth(tmp_path, no_figures):
    lines, _ = outcome_of(tmp_path/'run', .4, fp=.5, ptq=.1, qat_raw=.49, qat_ema=.49, qc=.49)
    assert lines == {'COLLAPSED to 40% of its best': 'bad', 'QC, delivered, keeps 98% of FP32: green, 97% or more': 'ok'}


def test_warnings_are_in_the_headline(tmp_path, no_figures):
    lines, text = outcome_of(tmp_path/'run', .8, fp=.5, ptq=.3, qat_raw=0., qat_ema=.28, qc=.27,
                             interval=dict(low=.5, high=.6))
    assert lines == {'STABLE, but the score fell by 20% from its peak': 'warn',
                     'QC, delivered, keeps 54% of FP32 (50% to 60%): red, below 85%': 'bad',
                     'QAT raw has AP 0.000, QAT EMA has AP 0.280: they part by more than 25%': 'warn',
                     'QC, the last state, is below the start of training: AP 0.270 after 0.300 (PTQ)': 'warn'}
    assert 'the chance of training, another seed, is not in it' in text
    assert 'Delivered: QC, the last state; export/ contains it.' in text and text.count('(delivered)') == 5  # tile and table


def test_what_was_stored_is_what_would_be_worked_out(tmp_path, no_figures):
    "A summary of 0.1.0 has no such block; its page says the same without an interval."
    old, _ = outcome_of(tmp_path/'old', .8, fp=.5, ptq=.3, qat_raw=0., qat_ema=.28, qc=.27)
    new, _ = outcome_of(tmp_path/'new', .8, fp=.5, ptq=.3, qat_raw=0., qat_ema=.28, qc=.27, interval=dict(low=.5, high=.6))
    assert [*old.values()] == [*new.values()] and len(old.keys() ^ new.keys()) == 2


def test_interrupted_run_names_error_and_resume(tmp_path, no_figures):
    root = make_run(tmp_path/'my run', stage='training')
    page, _ = page_of(root)
    command = f"yolov10-qat run --resume --run-root '{root}'"
    assert command in page.text('code') and command in write_summary_md(root).read_text()
    assert 'KeyboardInterrupt' in page.text() and 'in epoch 4' in page.text()


def test_killed_run_takes_scores_from_results(tmp_path, no_figures):
    root = make_run(tmp_path/'run', stage='training')
    summary = load_summary(root)
    summary.error = None
    summary.metrics = type(summary.metrics)()   # a killed process never wrote them
    save_summary(summary, root)
    page, _ = page_of(root)
    assert 'Best mAP50-95 0.206 at epoch 3' in page.text() and 'its process was killed' in page.text()
    assert len(rung_rows(read_run(root))) == 8


@pytest.mark.parametrize('state,sentences',
                         [
                             (dict(stage='start'),
                              ['No state of the model was scored.', 'No epoch was finished.',
                               'Two states must be scored', 'No weight histograms', 'No dataset was built.',
                               'No model was quantised.', 'No stage was finished.']),
                             (dict(stage='before'),
                              ['No epoch was finished.', 'No weight histograms',
                               'There is no readable oscillation.csv: the run is older than the measurement'])])
def test_empty_sections_say_why(tmp_path, no_figures, state, sentences):
    page, _ = page_of(make_run(tmp_path/'run', **state))
    for sentence in sentences: assert sentence in page.text()


@pytest.mark.parametrize(
    'name',
    ['ultralytics/train/results.csv', 'evaluation/fp-one2one.json', 'evaluation/weights.json',
     'evaluation/fp-one2one-detections.json', 'dataset/provenance.json', 'dataset/annotations/instances_val.json',
     'qc/history.csv', 'run_config.yaml', 'oscillation.csv', 'oscillation.json', 'batchnorm.csv', 'sensitivity.csv',
     'keep-layers.json'])
@pytest.mark.parametrize('content', ['', '{"a": ['])
def test_torn_file_is_a_sentence(tmp_path, no_figures, name, content):
    root = make_run(tmp_path/'run', method='ema+qc' if name.startswith('qc/') else 'ema', measured=True)
    (root/name).write_text(content)
    page, _ = page_of(root)
    assert 'cannot be read' in page.text() and name.split('/')[-1].split('.')[0] in page.text()
    assert page.text('h1').startswith('STABLE')


def test_torn_in_the_middle_of_an_epoch(tmp_path, no_figures):
    root = make_run(tmp_path/'run')
    whole = (root/'oscillation.csv').read_text()
    (root/'oscillation.csv').write_text(whole[:-200])
    assert 'oscillation.csv cannot be read and is left out: ' in page_of(root)[0].text()
    assert read_run(root).oscillation is None


DYNAMICS = ['oscillating', 'thresholds', 'trajectories', 'scales', 'batchnorm']


@pytest.mark.parametrize(
    'state,names',
    [(dict(), DYNAMICS), (dict(stage='training'), DYNAMICS), (dict(method='freeze'), [*DYNAMICS, 'frozen']),
     (dict(measured=True), [*DYNAMICS, 'sensitivity', 'trade']), (dict(tracked=False), []), (dict(stage='before'), [])])
def test_dynamics_are_drawn(tmp_path, state, names):
    drawn = {name for name, *_ in figures(make_run(tmp_path/'run', **state))}
    assert drawn & {*DYNAMICS, 'frozen', 'sensitivity', 'trade'} == {*names}


def test_dynamics_in_words(tmp_path, no_figures):
    page, _ = page_of(make_run(tmp_path/'run', measured=True))
    text = page.text()
    for part in ('Nagel et al.', 'with momentum 0.01', 'above 0.005', 'count for 69 steps',
                 'The 10 layers that oscillate most', 'keep-layers.json contains 3 layers at 8 bit', 'of 30 kB allowed'):
        assert part in text
    rows = read_run(tmp_path/'run').oscillation
    assert text.index(
        rows[rows.epoch == EPOCHS].nlargest(1, 'oscillating').layer.item()) < text.index('AP of each class')


def test_run_without_dynamics_renders_as_before(tmp_path, no_figures):
    page, _ = page_of(make_run(tmp_path/'run', tracked=False))
    assert ('There is no readable oscillation.csv' in page.text() and 'cannot be read' not in page.text()
            and 'Sensitivity' not in page.text('h2'))


@pytest.mark.parametrize('count,epochs', [(1, 1), (10, 1), (10, 300), (200, 2)])
def test_figures_of_any_size(tmp_path, count, epochs):
    "No layout gives up, and nothing is cut off."
    layers = [(f'model.{i//4}.one2one_cv3.{i%4}.1.1.conv', ('conv', 'depthwise', 'pointwise')[i % 3], 100*(i+1))
              for i in range(count)]
    root = make_run(tmp_path/'run')
    for write in (lambda *a: write_oscillation(*a, epochs=epochs), write_sensitivity): write(root, layers)
    found = [f for f in figures(root) if f[0] in (*DYNAMICS, 'sensitivity', 'trade')]
    assert len(found) >= len(DYNAMICS)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        keep_figures(found, tmp_path/'figures')
    for name, _, _, figure in found:
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert -.05 <= box.x0 and box.x1 <= width+.05 and -.05 <= box.y0 and box.y1 <= height+.05, name


def test_baseline_says_whose_curve_it_is(tmp_path):
    page, _ = page_of(make_run(tmp_path/'run', method='baseline'))
    assert 'the curve is the raw weights' in page.text() and 'QAT EMA 0' not in page.text('h3')
    assert {r['rung'] for r in rung_rows(read_run(tmp_path/'run'))} == {'fp', 'ptq', 'qat_raw'}


def test_correction_has_its_own_words(tmp_path):
    page, _ = page_of(make_run(tmp_path/'run', method='ema+qc'))
    assert ('QC, delivered, keeps 77% of FP32: red' in page.text('h1')
            and 'Best mAP50-95 0.241 after QC, final 0.241 after QC' in page.text())
    assert 'The gain of QC is indistinguishable from zero: +0.009 AP from QAT EMA, 95% interval −0.002 to +0.019. 8 validation images' in page.text()
    titles = page.text('h3')
    assert ('QC has AP 0.240, 77% of FP32' in titles and 'QC makes it 0.241' in titles
            and 'QC moves scales by 0.0011' in titles)
    assert '1 epoch at 0.0001, scope all' in page.text()


def test_hostile_names_are_text(tmp_path):
    names = ['<script>alert(1)</script>', '"><img src=x onerror=y>', 'a$b$c', "quote'", '人']
    root = make_run(tmp_path/'run', classes=names, run_id='</title><script>')
    page, html = page_of(root)
    check_offline(page, html)
    for name in names: assert name in page.text()
    assert '<script' not in html


def test_numbers_name_head_source_and_images(tmp_path, no_figures):
    page, _ = page_of(make_run(tmp_path/'run'))
    heads = [data.strip() for inside, data in page.texts if inside == 'td']
    assert heads.count('pycocotools') == heads.count('ultralytics_val') == 8
    # with three exported files
    assert (heads.count('one2one'), heads.count('one2many'), heads.count('onnxruntime')) == (8+2, 8+1, 2)
    assert 'Small subsets mislead' in page.text()


def test_command_repeats_the_configuration(tmp_path):
    config = RunConfig(method='baseline', profile='short', seed=3, run_root='runs/my run', coco_root="it's",
                       first_last_bits=8, quantize_dfl=True, epochs=2)
    words = shlex.split(reproduce_command(config))
    assert words[:2] == ['yolov10-qat', 'run']
    given = {}
    for word in words[2:]:
        if word.startswith('--'): name = word[2:].replace('-', '_'); given[name] = True
        else: given[name] = word
    assert RunConfig(**given) == config.model_copy(update=dict(run_root='my run-again'))


def test_parameters_and_artefacts(tmp_path, no_figures):
    root = make_run(tmp_path/'run')
    page, html = page_of(root)
    assert html.count('class="changed"') == 7 and all(name in page.text() for name in RunConfig.model_fields)
    assert load_config(root/'run_config.yaml').imgsz == 320
    assert {'ultralytics/train/weights/best.pt', 'run_summary.json'} <= {r['path'] for r in artefact_rows(root)}
    assert '4.1 kB' in page.text() and 'dirty: there were uncommitted changes' in page.text()


def test_rendering_twice_gives_the_same_page(tmp_path):
    root = make_run(tmp_path/'run')
    first = render(root).read_bytes()
    assert render(root).read_bytes() == first


def test_needs_no_torch(tmp_path):
    root = make_run(tmp_path/'run')
    code = ('import sys; from yolov10_qat.report.page import render; render(sys.argv[1]); print([m for m in '
            '("torch", "ultralytics", "brevitas", "matplotlib.pyplot") if m in sys.modules])')
    assert subprocess.run([sys.executable, '-c', code, root], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'


def test_without_summary_it_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='is this a run root'): render(tmp_path)
