"A run folder from a stranger: nothing outside it is read, copied or overwritten, what its files say is only words, and a wrong file is one line."
import csv
import io
import json
import re
import struct
import zlib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from fake_run import make_run, write_results
from fuzz import broken_csv, broken_json
from many_runs import held, store
from yolov10_qat.compare.page import write_comparison
from yolov10_qat.core.config import PRIMARY, load_config, save_config
from yolov10_qat.core.layout import Layout
from yolov10_qat.pipeline.publish import PublishError, publish
from yolov10_qat.report.figures import figures
from yolov10_qat.report.page import render, write_summary_md
from yolov10_qat.report.read import read_run
from yolov10_qat.report.style import keep_figures
from yolov10_qat.report.worst_images import examples
from yolov10_qat.runs.folder import resumed_config
from yolov10_qat.runs.summary import SummaryError, load_summary

WORDS = '\x1b[2K\n# whole: yes\u202e <script>x</script> |`` ` ``| ![i](http://e) [l](http://e) *b* $\\frac{1}{0}$'


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with a secret beside the run; figures are not drawn."
    monkeypatch.setattr('yolov10_qat.report.page._draw_all', lambda *_: {})
    (tmp_path/'work').mkdir()
    (tmp_path/'outside').mkdir()
    (tmp_path/'outside/secret.txt').write_text('SECRET')
    monkeypatch.chdir(tmp_path/'work')
    return tmp_path


def change(root, **fields):
    "Write fields of a summary, named by dotted paths with __ for dots."
    file = Layout(root).summary
    data = json.loads(file.read_text())
    for path, value in fields.items():
        *way, last = path.split('__')
        block = data
        for name in way: block = block[int(name) if name.isdigit() else name]
        block[int(last) if last.isdigit() else last] = value
    file.write_text(json.dumps(data))


def refused(kind, act, *words):
    with pytest.raises(kind) as caught: act()
    text = str(caught.value)
    assert '\n' not in text and '\x1b' not in text and len(text) < 1500
    for word in words: assert word in text
    return text


def check_words(text, html):
    "No control, no markup and no line of a file's own."
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f\u202e]', text)
    if html:  # where a line break is a blank
        assert '<script' not in text
        return
    assert not re.search('^# whole', text, re.M)
    page = MarkdownIt('commonmark').enable('table').render(text)
    for mark in ('<script', '<img', 'href="http://e', '<h1>whole'): assert mark not in page, mark


# --- files outside -------------------------------------------------------------------------------------------------------

EXPORTS = ['../../outside/secret.txt', 'export/../../outside/x', 'README.md', 'run_summary.json', 'export/.gitignore',
           'export/a/b', 'export', '', '/etc/hostname', 'export/a\0b', 'checkpoints/best.pt', '../export/x']

@pytest.mark.parametrize('path', EXPORTS)
def test_an_export_is_a_plain_file_of_the_run(here, path):
    root = make_run(here/'work/run')
    change(root, exports__0__path=path)
    refused(PublishError, lambda: publish(root, 'out', []), 'a plain file name in export/ belongs there')
    assert not list(Path('reports').glob('*')) and (here/'outside/secret.txt').read_text() == 'SECRET'
    html = render(root).read_text()
    if path not in ('README.md', 'run_summary.json'): assert f'href="{path}"' not in html


def test_an_export_that_is_not_the_measured_file(here):
    root = make_run(here/'work/run')
    (root/'export/yolo10n-w4.safetensors').write_text('other')
    refused(PublishError, lambda: publish(root, 'out', []), 'is not the file that was measured')
    (root/'export/yolo10n-w4.safetensors').unlink()
    refused(PublishError, lambda: publish(root, 'out', []), 'is not the file that was measured')


LINKS = ['report.html', 'summary.md', 'figures', 'export/yolo10n-w4.safetensors', 'evaluation', 'run_config.yaml',
         'ultralytics/train/weights/best.pt', 'ultralytics', 'dataset', 'dataset/annotations', 'recipe.yaml', 'run.log',
         'dataset/provenance.json', 'qc', 'keep-layers.json', 'coco']

@pytest.mark.parametrize('name', LINKS)
def test_a_link_that_leaves_the_run_is_refused(here, name):
    root = make_run(here/'work/run')
    target = here/'outside'/('secret.txt' if '.' in name.split('/')[-1] else '')
    if (root/name).exists():
        kept = here/'outside'/'kept'
        (root/name).rename(kept)
        target = kept
    (root/name).parent.mkdir(parents=True, exist_ok=True)
    (root/name).symlink_to(target)
    before = {p: p.read_bytes() for p in (here/'outside').rglob('*') if p.is_file()}
    for act in (lambda: render(root), lambda: write_summary_md(root), lambda: publish(root, 'out', ['best']),
                lambda: resumed_config(root, {})):
        refused(ValueError, act, 'is a link that leads out of')
    assert before == {p: p.read_bytes() for p in (here/'outside').rglob('*') if p.is_file()}
    assert not list(Path('reports').glob('*'))


def test_links_within_the_run_and_shared_data_are_fine(here):
    root = make_run(here/'work/run')
    (root/'export/real.bin').write_bytes((root/'export/yolo10n-w4.safetensors').read_bytes())
    (root/'export/yolo10n-w4.safetensors').unlink()
    (root/'export/yolo10n-w4.safetensors').symlink_to('real.bin')
    (root/'dataset').rename(here/'work/dataset')
    (root/'dataset').symlink_to('../dataset')
    place = publish(root, 'out', [])
    assert not [p for p in place.rglob('*') if p.is_symlink()]
    assert (place/'export/yolo10n-w4.safetensors').read_text() == 'yolo10n-w4.safetensors'
    assert 'data:image/jpeg' in (place/'report.html').read_text()


def test_a_publication_is_no_link_and_holds_none(here):
    root, reports = make_run(here/'work/run'), here/'work/reports'
    reports.mkdir()
    for name in ('out', '.out.part', '.out.old'):
        (reports/name).symlink_to(here/'outside')
        refused(PublishError, lambda: publish(root, 'out', []), 'is a link')
        (reports/name).unlink()
    place = publish(root, 'out', [])
    summary = place/'run_summary.json'
    copy = here/'outside/same.json'
    summary.rename(copy)
    summary.symlink_to(copy)
    refused(PublishError, lambda: publish(root, 'out', []), 'was changed since it was published (run_summary.json)')
    assert sorted(p.name for p in (here/'outside').iterdir()) == ['same.json', 'secret.txt']


@pytest.mark.parametrize('name', ['../x', '/tmp/x', 'a/b', '..', '.x', 'a\nb', '', 'x'*200, 'a\x1b[2K'])
def test_a_publication_has_a_plain_name(here, name):
    refused(PublishError, lambda: publish(make_run(here/'work/run'), name, []), 'is no plain folder name')


@pytest.mark.parametrize('record', ['[]', '{', '{"run_id": 1}', '{"format_version": 1, "run_id": "fake-run"}', '1e999',
                                    '{"format_version": 1, "run_id": "fake-run", "files": [{"path": 3}]}', '['*5000,
                                    '{"format_version": 9, "run_id": "fake-run", "files": []}'])
def test_a_record_that_is_none(here, record):
    root = make_run(here/'work/run')
    (here/'work/reports/out').mkdir(parents=True)
    (here/'work/reports/out/publication.json').write_text(record)
    refused(PublishError, lambda: publish(root, 'out', []), 'publication.json', 'choose another --name')


# --- pictures ------------------------------------------------------------------------------------------------------------

def only_picture(root, name):
    "Let every validation image be called so."
    file = Layout(root).view.val_annotations
    data = json.loads(file.read_text())
    for image in data['images']: image['file_name'] = name
    file.write_text(json.dumps(data))
    return examples(read_run(root))


@pytest.mark.parametrize('name', ['../../../../outside/secret.png', '{outside}/secret.png', 'out.png', 'a\0.png',
                                  'x'*5000, '', '.', '../val/../../../outside/secret.png'])
def test_a_picture_from_elsewhere_is_not_shown(here, name):
    Image.new('RGB', (40, 40), 'red').save(here/'outside/secret.png')
    root = make_run(here/'work/run')
    (root/'dataset/images/val/out.png').symlink_to(here/'outside/secret.png')
    shown, sentence = only_picture(root, name.format(outside=here/'outside'))
    assert not shown and 'of their pictures are left out' in sentence
    assert 'data:image/jpeg' not in render(root).read_text()


def test_a_picture_of_the_data_set_that_the_run_names_is_shown(here):
    root = make_run(here/'work/run')
    (here/'data/val2017').mkdir(parents=True)
    Image.new('RGB', (320, 240), 'red').save(here/'data/val2017/a.png')
    (root/'dataset/images/val/a.png').symlink_to(here/'data/val2017/a.png')
    assert not only_picture(root, 'a.png')[0]
    save_config(load_config(root/'run_config.yaml').model_copy(update=dict(coco_root=str(here/'data'))),
                root/'run_config.yaml')
    shown, sentence = examples(read_run(root))
    assert shown and 'left out' not in sentence


def test_a_picture_is_drawn_anew(here):
    root = make_run(here/'work/run')
    Image.new('RGB', (320, 240), 'red').save(root/'dataset/images/val/a.jpg', exif=b'Exif\0\0SECRET')
    with open(root/'dataset/images/val/a.jpg', 'ab') as f: f.write(b'SECRET'*100)
    import base64
    for example in only_picture(root, 'a.jpg')[0]:
        for shot in example['shots']: assert b'SECRET' not in base64.b64decode(shot['uri'].partition(',')[2])


def png(width, height):
    "A valid header with hardly any pixels."
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'0')) + chunk(b'IEND', b'')


PICTURES = {'bomb': png(60_000, 60_000), 'large': png(10_000, 9_000), 'torn': png(64, 64), 'empty': b'', 'text': b'SECRET',
            'postscript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n', 'svg': b'<svg onload="x"/>',
            'gif': b'GIF89a\x01\x00\x01\x00\x00\x00\x00;', 'zero': png(0, 0)}

@pytest.mark.parametrize('kind', PICTURES)
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_what_is_no_photo_is_left_out(here, kind):
    root = make_run(here/'work/run')
    (root/'dataset/images/val/a.jpg').write_bytes(PICTURES[kind])
    shown, sentence = only_picture(root, 'a.jpg')
    assert not shown and 'left out' in sentence


def test_boxes_of_any_size_are_drawn(here):
    root = make_run(here/'work/run')
    for file in (Layout(root).view.val_annotations, *(root/'evaluation').glob('*-detections.json')):
        data = json.loads(file.read_text())
        rows = data['annotations'] if isinstance(data, dict) else data
        for i, row in enumerate(rows):
            if i % 4 == 0: row['bbox'] = [-1e300, 1e300, 1e300, 1e-300] if i % 8 else [5, 5, -50, 1e308]
        file.write_text(json.dumps(data))
    examples(read_run(root))


def test_more_boxes_than_a_page_compares(here):
    root = make_run(here/'work/run')
    box = dict(image_id=100, category_id=1, bbox=[0, 0, 9, 9])
    file = Layout(root).view.val_annotations
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(annotations=[box]*5000)))
    for rung in ('fp', 'qat_ema'):
        (root/f'evaluation/{rung}-one2one-detections.json').write_text(json.dumps([box | dict(score=.9)]*5000))
    assert examples(read_run(root)) == ([], 'There are no examples, because some images have more boxes than a page '
                                            'compares.')


# --- words ---------------------------------------------------------------------------------------------------------------

def wordy(root, words=WORDS, stage='complete'):
    "A run whose every text is somebody's."
    make_run(root, stage=stage, classes=[f'{words}{i}' for i in range(5)], run_id=words, measured=stage == 'complete')
    change(root, git__commit=words, git__branch=words, environment={words: words}, training__framework=words,
           training__device=words, training__overrides={'optimizer': words, 'momentum': words, 'nbs': words},
           dataset__fingerprint=words, dataset__coco_root=words, quantization__granularity=words,
           quantization__scale=words, quantization__init_ptq=words, timings={words: 3.}, model__checkpoint=words,
           created_at=words,
           error=dict(type=words, message=words, epoch=1), gate=dict(allowed=False, ungated=True, reasons=[words]),
           diagnosis=dict(peak_epoch=1, peak=.2, end=.1, end_epoch=3, lost=.5, fell_in_epochs=None, sentences=[words],
                          moved=[dict(name=words, before=1., after=None, what=words)],
                          advice=[dict(text=words, because=words)]))
    file = Layout(root).view.provenance
    data = json.loads(file.read_text())
    data |= dict(warnings=[words], fingerprint=words)
    data['splits']['train']['skipped'][words] = dict(count=3)
    data['sources']['val']['file'] = data['request']['coco_root'] = words
    file.write_text(json.dumps(data))
    if stage != 'complete': return root
    change(root, exports__0__format=words, exports__0__output=words, quantization__layers__0__name=words,
           quantization__layers__0__kept_why=words)
    for name in ('oscillation.csv', 'batchnorm.csv', 'sensitivity.csv'):
        rows = list(csv.reader(io.StringIO((root/name).read_text())))
        for row in rows[1:]: row[0 if name != 'oscillation.csv' else rows[0].index('layer')] += words
        with open(root/name, 'w', newline='') as f: csv.writer(f).writerows(rows)
    return root


@pytest.mark.parametrize('stage', ['complete', 'training'])
def test_words_of_a_run_are_words(here, stage):
    root = wordy(here/'work/run', stage=stage)
    check_words(render(root).read_text(), html=True)
    check_words(write_summary_md(root).read_text(), html=False)
    place = publish(root, 'out', [], incomplete=True)
    check_words((place/'README.md').read_text(), html=False)
    check_words((place/'report.html').read_text(), html=True)
    assert 'whole: yes' in (place/'README.md').read_text()  # said, as what it is


def test_words_in_figures_are_no_formulas(here):
    root = wordy(here/'work/run')
    drawn = keep_figures(figures(root), Layout(root).figures)
    assert {'classes', 'oscillating', 'sensitivity', 'sizes'} <= set(drawn)
    for file in Layout(root).figures.glob('*.svg'): check_words(file.read_text(), html=True)
    for f in drawn.values(): assert '\n' not in f['title'] + f['alt'] and '\x1b' not in f['title'] + f['alt']


@pytest.mark.parametrize('words', [WORDS, '=HYPERLINK("http://e")', '+1+1', '@SUM(1)', '-2+3'])
def test_words_of_a_comparison_are_words(tmp_path, words):
    runs = [s | dict(run_id=f'{words}{i}', git=dict(commit=words)) for i, s in enumerate(held())]
    broken = runs[0] | dict(run_id=words, status='incomplete', error=dict(type=words, message=words))
    for i, s in enumerate([*runs, broken]):
        s['training'] = s['training'] | dict(overrides={words: words, 'optimizer': words})
        (tmp_path/f'runs/{i}').mkdir(parents=True)
        (tmp_path/f'runs/{i}/run_summary.json').write_text(json.dumps(s))
    (tmp_path/'runs/\x1b[2K').mkdir()
    (tmp_path/'runs/\x1b[2K/run_summary.json').write_text('{"schema_version": "%s"}' % '\\u001b[2K')
    write_comparison([tmp_path/'runs'], tmp_path/'out')
    check_words((tmp_path/'out/report.html').read_text(), html=True)
    check_words((tmp_path/'out/summary.md').read_text(), html=False)
    text = (tmp_path/'out/summary.csv').read_text()
    check_words(text, html=True) if '<' not in words else check_words(text.replace('<', ''), html=True)
    cells = [c for row in csv.reader(io.StringIO(text)) for c in row]
    assert any('http' in c or words in c or '1' in c for c in cells)
    for c in cells: assert not c.startswith(('=', '+', '@', '-')) or re.fullmatch(r'[-+]?[\d.e-]+', c), c


def test_a_variant_is_no_path(tmp_path):
    runs = held()
    for s in runs: s['model']['variant'] = '../../evil'
    store(tmp_path/'runs', *held(), *[s | dict(run_id=f'other{i}') for i, s in enumerate(runs)])
    result = write_comparison([tmp_path/'runs'], tmp_path/'a/b/out').result
    assert len(result.problems) == 4 and 'model.variant' in result.problems[0].reason
    assert not list(tmp_path.rglob('*evil*'))


# --- wrong files ---------------------------------------------------------------------------------------------------------

SUMMARIES = {'nothing': '', 'a list': '[]', 'a number': '3', 'null': 'null', 'deep': '['*50_000, 'binary': '\0\1',
             'deep object': '{"schema_version": 1, "a": '*200 + '1' + '}'*200, 'version': '{"schema_version": "1"}',
             'true': '{"schema_version": true}', 'digits': '{"schema_version": ' + '9'*5000 + '}',
             'twice': '{"schema_version": 1, "schema_version": 1}'}

@pytest.mark.parametrize('kind', SUMMARIES)
def test_a_summary_that_is_none(here, kind):
    root = make_run(here/'work/run')
    Layout(root).summary.write_text(SUMMARIES[kind])
    for act in (lambda: render(root), lambda: publish(root, 'out', []), lambda: load_summary(root)):
        refused(SummaryError, act, str(Layout(root).summary))


FIELDS = dict(metrics__best_value=1.5, metrics__rungs__0__AP=-1, metrics__rungs__0__images=-1, metrics__rungs__0__AP50='.2',
              metrics__history__0={}, metrics__best_epoch=True, exports__0__sizes__file=0, exports__0__imgsz=0,
              timings={'x': -1}, run_id='x'*5000, created_at=3, model__imgsz=1.5, training__seed='0', training__batch=0,
              quantization__layers=3, environment={'a': 1}, git__dirty='yes', dataset__train_images=-3,
              method__variant='x'*400, metrics__rungs=[{}]*20_000, status='done', surprise=1, training__epochs=True)

@pytest.mark.parametrize('field', FIELDS)
def test_a_wrong_field_is_named(here, field):
    root = make_run(here/'work/run')
    change(root, **{field: FIELDS[field]})
    refused(SummaryError, lambda: load_summary(root), field.split('__')[0], str(Layout(root).summary))


@pytest.mark.parametrize('value', ['1e999', '-1e999', 'NaN', 'Infinity', '1'+'0'*30, '"\\ud800"'])
def test_a_number_that_is_none(here, value):
    root = make_run(here/'work/run')
    text = Layout(root).summary.read_text()
    Layout(root).summary.write_text(re.sub(r'"training": [\d.]+', lambda _: f'"training": {value}', text))
    refused(SummaryError, lambda: load_summary(root), 'timings.training')


SIDE = ['evaluation/fp-one2one.json', 'evaluation/qat_ema-one2one.json', 'evaluation/weights.json', 'oscillation.json',
        'dataset/provenance.json', 'ultralytics/train/results.csv', 'oscillation.csv', 'batchnorm.csv', 'keep-layers.json',
        'sensitivity.csv', 'qc/history.csv', 'run_config.yaml']
TEXTS = ['', '[]', '3', '{}', '"x"', '['*50_000, '\0', '{"a": 1e999}', 'a,b\n1,2\n1\n', 'epoch\n' + 'x'*300_000]

@pytest.mark.parametrize('name', SIDE)
def test_a_wrong_side_file_is_a_sentence(here, name):
    root = make_run(here/'work/run', method='ema+qc', measured=True)
    for text in TEXTS:
        if name.endswith('yaml') and text == '{}': continue  # a configuration that leaves all as it is
        (root/name).write_text(text)
        run = read_run(root)
        if text != '{}' or 'provenance' not in name:
            assert [p for p in run.problems if p.startswith(f'{name} cannot be read and is left out: ')], (name, text[:9])
        for p in run.problems: assert '\n' not in p and '\0' not in p and len(p) < 600
        assert '<span class="ok">STABLE' in render(root).read_text()


def test_a_table_of_another_program_is_a_problem_of_a_comparison(tmp_path):
    store(tmp_path/'runs', *held())
    for i, text in enumerate(['epoch,%s\n1e999,.1\n', 'epoch,%s\n1,.1\n2\n', 'epoch,%s\n1,7\n', 'epoch,%s\nx,y\n', 'epoch,%s\n-1,0\n']):
        (tmp_path/f'runs/table{i}').mkdir()
        (tmp_path/f'runs/table{i}/results.csv').write_text(text % PRIMARY)
    result = write_comparison([tmp_path/'runs'], tmp_path/'out').result
    assert len(result.problems) == 5 and len(result.variants) == 2


# --- fuzz ----------------------------------------------------------------------------------------------------------------

def files_of(folder): return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob('*') if p.is_file()}


def fuzz(here, count, draw, seed=0):
    "Break one file at a time; a summary is refused or shown, a side file is shown or left out."
    root, names = make_run(here/'work/run', method='ema+qc', measured=True), ['run_summary.json', *SIDE[:-1]]
    outside, whole, shown = files_of(here/'outside'), {n: (root/n).read_text() for n in names}, 0
    for i in range(count):
        name = names[0] if i % 2 else names[i//2 % len(names)]
        broken = (broken_csv if name.endswith('csv') else broken_json)(whole[name], seed+i)
        (root/name).write_bytes(broken.encode('utf-8', 'surrogatepass'))
        try:
            render(root)
            write_summary_md(root)
            if i % 10 == 0: publish(root, 'out', [])
            if draw and i % draw == 0:
                for *_, figure in figures(root): figure.draw_without_rendering()  # what a file of one could fail at
            shown += 1
            check_words(Layout(root).report.read_text(), html=True)
            check_words(Layout(root).summary_md.read_text(), html=False)
        except (SummaryError, PublishError) as e: assert '\n' not in str(e) and '\x1b' not in str(e) and len(str(e)) < 1500
        finally: (root/name).write_text(whole[name])
    assert files_of(here/'outside') == outside and {p.name for p in (here/'work').iterdir()} <= {'run', 'reports'}
    return shown


def test_fuzz(here): assert fuzz(here, 150, draw=0) > 30


@pytest.mark.slow
def test_fuzz_long(here): assert fuzz(here, 2000, draw=10, seed=1000) > 400


# --- a tie ---------------------------------------------------------------------------------------------------------------

def test_on_a_tie_the_best_epoch_is_the_one_that_best_pt_holds(tmp_path):
    from types import SimpleNamespace

    from yolov10_qat.report.score_figures import map_message
    from yolov10_qat.runs.diagnosis import fall
    from yolov10_qat.runs.results import judge_results, read_results
    from yolov10_qat.train.float_trainer import FloatTrainer
    scores, saved = [.1, .3, .2, .3, .25], []
    trainer = SimpleNamespace(best_fitness=None, averaging=False, world_size=1, ema=SimpleNamespace(ema=None), model=None)
    for epoch, score in enumerate(scores):
        trainer._score = lambda model, score=score: {PRIMARY: score}
        _, fitness = FloatTrainer.validate(trainer)
        if fitness == trainer.best_fitness: saved.append(epoch+1)  # what `save_model` asks
    write_results(tmp_path, scores)
    table = read_results(tmp_path/'ultralytics/train/results.csv')
    assert judge_results(table)[0]['best_epoch'] == fall(table).peak_epoch == saved[-1] == 4
    assert 'in epoch 4 and' in map_message(table, {})
