"What a run did on its own account is told to its reader: files it did not keep, classes it matched by name."
import re

import pytest

from fake_run import make_run
from test_hostile_run import check_words
from yolov10_qat.pipeline.publish import publish
from yolov10_qat.report import page as report
from yolov10_qat.report.page import render, write_summary_md
from yolov10_qat.runs.summary import NotExported, load_summary, save_summary

NAME, WHY = 'yolo10n-w4-one2many.onnx', 'it is not the model it was made from: its scores differ by 0.2 of their range'
NOTE = 'base.pt: 3 of 5 classes stand in another order than in the data; they were matched by name'
HOSTILE = 'x'*300 + '\x1b[2K\n# whole: yes\u202e <script>x</script> |`` ` ``| [l](http://e) *b*'


@pytest.fixture(autouse=True)
def no_figures(monkeypatch): monkeypatch.setattr(report, '_draw_all', lambda *_: {})


def told(root, refused=(), class_order=None):
    "Summary and page of a run with such a summary; its exports are those that it did not refuse."
    make_run(root)
    summary = load_summary(root)
    names = {path for path, _ in refused}
    summary.exports = [e for e in summary.exports if e.path not in names]
    summary.refused_exports = [NotExported(path=path, why=why) for path, why in refused]
    summary.model.class_order = class_order
    save_summary(summary, root)
    return write_summary_md(root).read_text(), render(root).read_text()


def test_a_refused_file(tmp_path):
    "Which, why, what to do; the outcome stays as it is."
    summary, page = told(tmp_path/'run', [(f'export/{NAME}', WHY)])
    for text in (summary, page):
        assert f'Refused: 1 of 3 deployable files ({NAME}); the outcome does not depend on it' in text
        assert WHY in text and 'tries one file again' in text
    assert 'yolov10-qat export CHECKPOINT --out FILE tries' in summary
    worth = 'QAT EMA, delivered, keeps 74% of FP32: red, below 85%'
    assert summary.startswith(f'# STABLE: the final score is 99% of the best. {worth}\n')
    assert f'<span class="bad">{worth}</span></h1>' in page
    assert f'- **refused** `{NAME}`: ' in summary
    assert f'<li class="refused"><span class="mono">{NAME}</span>: {WHY}</li>' in page
    assert '<code>CHECKPOINT</code> <code>--out</code> <code>FILE</code> tries one file again' in page
    assert '<a href="#refused">' in page and page.count('id="refused"') == 1


def test_every_file_refused(tmp_path):
    "There is no table of files then; five are counted, three are named."
    refused = [('export/yolo10n-w4.safetensors', 'a'), ('export/yolo10n-w4-one2one.onnx', 'b'), (f'export/{NAME}', 'c'),
               ('export/more.onnx', 'd'), ('export/again.onnx', 'e')]
    summary, page = told(tmp_path/'run', refused)
    assert 'Refused: 5 of 5 deployable files (yolo10n-w4.safetensors, yolo10n-w4-one2one.onnx, ' in summary
    assert f'{NAME}, ...)' in summary and summary.count('**refused**') == page.count('<li class="refused">') == 5
    assert 'href="#files"' not in page


def test_classes_that_were_matched_by_name(tmp_path):
    for text in told(tmp_path/'run', class_order=NOTE): assert f'Classes: {NOTE}.' in text


def test_nothing_to_tell(tmp_path):
    for text in told(tmp_path/'run'): assert not re.search('[Rr]efused|matched by name', text)


def test_a_publication_says_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told(tmp_path/'run', [(f'export/{NAME}', WHY)], NOTE)
    place = publish(tmp_path/'run', 'out', [])
    for name in ('README.md', 'summary.md', 'report.html'):
        text = (place/name).read_text()
        assert NAME in text and NOTE in text and str(tmp_path) not in text, name


def test_words_of_a_stranger(tmp_path):
    "Nothing that a file says is markup or a control, after a name of 300 letters either."
    summary, page = told(tmp_path/'run', [(f'export/{HOSTILE}', HOSTILE)], HOSTILE)
    check_words(summary, html=False)
    check_words(page, html=True)
