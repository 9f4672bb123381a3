"What scores mean after quantisation: against a count without pycocotools, and on the page."
import json
import random
import shutil

import pytest

from fake_run import fake_confidence, make_run
from places import ROOT
from yolov10_qat.evaluate.confidence import ENOUGH, confidence_shift
from yolov10_qat.report.figures import figures
from yolov10_qat.report.page import render, write_summary_md
from yolov10_qat.report.worst_images import Box, match
from yolov10_qat.runs.summary import RunSummary, load_summary, save_summary

IMAGES = 40


def scene(seed):
    "Objects of three classes, one of them rare, and what two models make of them: moved, lost, doubled and made up boxes."
    dice = random.Random(seed)
    def place(): return [dice.uniform(0, 300), dice.uniform(0, 300), dice.uniform(30, 120), dice.uniform(30, 120)]
    truth = [dict(id=i, image_id=dice.randrange(IMAGES), category_id=dice.choice([3, 3, 3, 5, 5, 9]), bbox=place(), iscrowd=0)
             for i in range(160)]
    for t in truth: t['area'] = t['bbox'][2]*t['bbox'][3]
    def model(sure):
        found = []
        for t in truth:
            for _ in range(dice.choice([0, 1, 1, 1, 2])):
                moved = [v+dice.uniform(-14, 14) for v in t['bbox']]
                found.append(dict(image_id=t['image_id'], category_id=t['category_id'], bbox=moved, score=sure*dice.random()))
        found += [dict(image_id=dice.randrange(IMAGES), category_id=dice.choice([3, 5, 9]), bbox=place(),
                       score=sure*.6*dice.random()) for _ in range(120)]
        return found
    return truth, model(1.), model(.7)


def write(path, truth):
    path.write_text(json.dumps(
        dict(images=[dict(id=i, width=500, height=500, file_name=f'{i}.jpg') for i in range(IMAGES)], annotations=truth,
             categories=[dict(id=i, name=f'class {i}') for i in (3, 5, 9, 11)])))
    return path


def by_hand(truth, found, category=None):
    "(score, object or None) of each detection; objects by their place in `truth`."
    rows = []
    for image in range(IMAGES):
        mine, his = ([(i, Box(image, x['category_id'], tuple(x['bbox']), x.get('score', 1.)))
                      for i, x in enumerate(group) if x['image_id'] == image and category in (None, x['category_id'])]
                     for group in (truth, found))
        hits = match([b for _, b in mine], [b for _, b in his])
        rows += [(b.score, mine[hits[j]][0] if j in hits else None) for j, (_, b) in enumerate(his)]
    return rows


def precision(rows, threshold):
    shown = [o for s, o in rows if s >= threshold]
    return sum(o is not None for o in shown)/len(shown) if shown else None


def median(values):
    values = sorted(values)
    return (values[(len(values)-1)//2]+values[len(values)//2])/2


def changes(before, after):
    scores = [{o: s for s, o in rows if o is not None} for rows in (before, after)]
    return [scores[1][o]-s for o, s in scores[0].items() if o in scores[1] and max(s, scores[1][o]) >= .25]


def check(shift, before, after, objects):
    change = changes(before, after)
    assert shift.pairs == len(change) and shift.median == pytest.approx(median(change))
    goal = precision(before, .25)
    reached = [t/100 for t in range(101) if (p := precision(after, t/100)) is not None and p >= goal]
    assert shift.precision == pytest.approx(goal) and shift.threshold == (reached[0] if reached else None)
    assert shift.recall == pytest.approx(sum(o is not None and s >= .25 for s, o in before)/objects)
    if reached: assert shift.recall_after == pytest.approx(sum(o is not None and s >= reached[0] for s, o in after)/objects)


@pytest.mark.parametrize('seed', range(8))
def test_counted_without_pycocotools(tmp_path, seed):
    truth, before, after = scene(seed)
    got = confidence_shift(write(tmp_path/'truth.json', truth), before, after, 'qc', resamples=20)
    check(got.overall, by_hand(truth, before), by_hand(truth, after), len(truth))
    assert got.images == IMAGES
    assert {r.category_id for r in got.per_class} == {
        c for c in (3, 5, 9, 11) if len(changes(by_hand(truth, before, c), by_hand(truth, after, c))) >= ENOUGH}
    assert [row.median for row in got.per_class] == sorted(row.median for row in got.per_class)
    for row in got.per_class:
        objects = sum(t['category_id'] == row.category_id for t in truth)
        check(row, by_hand(truth, before, row.category_id), by_hand(truth, after, row.category_id), objects)
    rows = by_hand(truth, after)
    assert got.after.precision == [pytest.approx(p) if (p := precision(rows, t/100)) is not None else None for t in range(101)]


@pytest.mark.parametrize('seed', range(8))
def test_a_model_against_itself_needs_no_other_threshold(tmp_path, seed):
    truth, before, _ = scene(seed)
    same = confidence_shift(write(tmp_path/'truth.json', truth), before, before, 'qc', resamples=50).overall
    assert same.median == same.lower == same.upper == 0
    assert same.threshold <= .25 and same.recall_after >= same.recall
    fallen = [d | dict(score=d['score']-.1) for d in before if d['score'] >= .1]
    found = confidence_shift(write(tmp_path/'truth.json', truth), before, fallen, 'qc', resamples=50).overall
    assert found.median == pytest.approx(-.1) and found.threshold <= .15 and found.recall_after >= found.recall


def test_the_interval_holds_what_other_images_need(tmp_path):
    "19 of 20 intervals should hold the threshold of other images, here the median of 20 draws; 16 are asked for."
    needed = []
    for seed in range(20):
        truth, before, after = scene(100+seed)
        s = confidence_shift(write(tmp_path/f'{seed}.json', truth), before, after, 'qc', resamples=200).overall
        needed.append((s.threshold, s.low, s.high))
    middle = median([t for t, *_ in needed if t is not None])
    held = sum(low <= middle <= (1 if high is None else high) for _, low, high in needed if low is not None)
    assert held >= 16 and all(high is None or high-low < .4 for _, low, high in needed if low is not None)


def test_page_and_summary_say_it(tmp_path):
    root = make_run(tmp_path/'run', method='ema+qc')
    page, text = render(root).read_text(), write_summary_md(root).read_text()
    line = 'a threshold of 0.20 keeps the precision of 0.70 that FP32 has at 0.25 (95% interval 0.17 to 0.23; recall 0.56 → 0.45)'
    assert line in page and line in text
    assert '<h2 id="confidence">Confidence</h2>' in page and 'figures/shifts.svg' in page and (root/'figures/confidence.png').is_file()


def test_a_run_from_before_it_was_measured(tmp_path):
    root = make_run(tmp_path/'run', method='ema+qc')
    content = json.loads((root/'run_summary.json').read_text())
    del content['metrics']['confidence']
    (root/'run_summary.json').write_text(json.dumps(content))
    page, text = render(root).read_text(), write_summary_md(root).read_text()
    assert 'id="confidence"' not in page and 'keeps the precision' not in page+text
    assert not {'confidence', 'shifts'} & {name for name, *_ in figures(root)}
    (tmp_path/'old').mkdir()
    shutil.copy(ROOT/'tests/examples/run_summary-v1.json', tmp_path/'old/run_summary.json')
    assert load_summary(tmp_path/'old').metrics.confidence is None and 'id="confidence"' not in render(tmp_path/'old').read_text()


@pytest.mark.filterwarnings('ignore:Glyph')
@pytest.mark.parametrize('classes', [[], ['only one'], ['ein sehr langer Name '*12, '交通信号灯', '<b>'], [f'{i}' for i in range(21)]])
def test_figures_of_any_number_of_classes(tmp_path, classes):
    root = make_run(tmp_path/'run')
    summary = load_summary(root)
    summary.metrics.confidence = fake_confidence('qat_ema', classes)
    save_summary(summary, root)
    drawn = {name: figure for name, _, _, figure in figures(root, ('confidence', 'shifts'))}
    assert [*drawn] == ['confidence', 'shifts'][:1 + bool(classes)]
    for figure in drawn.values():
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert -.05 <= box.x0 and box.x1 <= width+.05 and -.05 <= box.y0 and box.y1 <= height+.05
    page = render(root).read_text()
    assert ('no class is shown by itself' in page) == (not classes) and ('&lt;b&gt;' in page) == ('<b>' in classes)


def test_a_summary_with_half_a_curve_is_refused():
    content = fake_confidence().model_dump()
    content['before']['precision'].pop()
    with pytest.raises(ValueError, match='precision'): RunSummary.model_validate(
        dict(run_id='x', created_at='now', metrics=dict(confidence=content)))
