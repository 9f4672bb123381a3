"Details of a page that a fault could change unnoticed: signs, crowds, limits of pictures, words in a card, links beside a run."
import pytest
from PIL import Image

from fake_run import make_run
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.core.layout import Layout
from yolov10_qat.report import worst_images
from yolov10_qat.report.card import RunResult
from yolov10_qat.report.read import read_run
from yolov10_qat.report.rows import artefact_rows, rung_rows
from yolov10_qat.report.worst_images import Box, Photo, Truth, TruthCategory, examples, losers, open_photo
from yolov10_qat.runs.folder import check_links, record_failure
from yolov10_qat.runs.summary import Failure, load_summary, save_summary


def test_what_is_below_floating_point_has_a_minus(tmp_path):
    rows = {(r['rung'], r['head'], r['metrics_source']): r for r in rung_rows(read_run(make_run(tmp_path/'run')))}
    fp, ptq = (rows[name, 'one2one', 'pycocotools'] for name in ('fp', 'ptq'))
    assert ptq['difference'] == ptq['AP'] - fp['AP'] < -.2 and fp['difference'] is None


def test_a_crowd_is_nothing_to_lose():
    one, crowd = (0, 0, 10, 10), (50, 50, 20, 20)
    def truth(iscrowd): return Truth([Photo(1, 'a.jpg')], [Box(1, 1, one), Box(1, 1, crowd, iscrowd=iscrowd)],
                                     [TruthCategory(1, 'cat')])
    before, after = [Box(1, 1, one, .9), Box(1, 1, crowd, .9)], [Box(1, 1, one, .9)]
    assert losers(truth(1), before, after) == [] and len(losers(truth(0), before, after)) == 1


def test_a_picture_has_a_limit_of_pixels(tmp_path, monkeypatch):
    "Pillow warns above the limit and refuses above twice of it; a page stops at the limit."
    Image.new('RGB', (40, 30)).save(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1200)
    assert open_photo(tmp_path/'a.png').size == (40, 30)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1199)
    with pytest.warns(Image.DecompressionBombWarning): assert open_photo(tmp_path/'a.png') is None


def test_a_page_looks_through_so_much(tmp_path, monkeypatch):
    run = read_run(make_run(tmp_path/'run'))
    size = Layout(run.root).view.val_annotations.stat().st_size
    monkeypatch.setattr(worst_images, 'MOST_READ', size-1)
    assert 'instances_val.json is larger than a page looks through' in examples(run)[1]


@pytest.mark.parametrize('words', ['<script>x</script>', '\x1b[2K', '"><img src=x>', '\u202e'])
def test_words_in_a_card(tmp_path, words):
    root = make_run(tmp_path/'run', stage='training')
    summary = load_summary(root)
    summary.error = Failure(type=words, message=f'it broke {words}')
    save_summary(summary, root)
    html = RunResult(root)._repr_html_()
    assert 'it broke' in html and words not in html


def test_a_file_name_is_no_address(tmp_path):
    root = make_run(tmp_path/'run')
    for name in ('a?b.bin', 'a#b.bin', 'a%41.bin', 'a"b.bin', 'a b.bin'): (root/'export'/name).write_text('x')
    found = {r['path']: r['href'] for r in artefact_rows(root)}
    assert found['export/a?b.bin'] == 'export/a%3Fb.bin' and found['export/a#b.bin'] == 'export/a%23b.bin'
    assert found['export/a%41.bin'] == 'export/a%2541.bin' and found['export/a"b.bin'] == 'export/a%22b.bin'


def test_a_folder_beside_with_a_longer_name_is_outside(tmp_path):
    root, beside = make_run(tmp_path/'run'), tmp_path/'run-of-another'
    beside.mkdir()
    (beside/'a').write_text('a')
    (root/'notes.txt').symlink_to(beside/'a')
    with pytest.raises(ConfigError, match='is a link that leads out of'): check_links(root)


def test_the_first_record_of_a_failure_stays(tmp_path):
    root = make_run(tmp_path/'run', stage='start')
    record_failure(root, 'DataError', 'no such file')
    record_failure(root, 'RuntimeError', 'the kernel died')
    assert load_summary(root).error == Failure(type='DataError', message='no such file')
