"Many runs: what is compared and what is only shown, what may be said of it, the gate and each of its reasons, the page read back, and a refused yolo10m."
import csv
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from conftest import REPOSITORY, command
from many_runs import held, incomplete, keep_draws, store, vary
from test_report import Page, check_offline
from yolov10_qat.compare.arms import over_seeds
from yolov10_qat.compare.contrast import contrast
from yolov10_qat.compare.figures import LINES, SEEDS, TREES, forest, lines, looks, steps
from yolov10_qat.compare.gate import GateError, ask_gate, gate
from yolov10_qat.compare.page import MOST_RUNS, write_comparison
from yolov10_qat.compare.runs import differences, find_runs
from yolov10_qat.compare.sentences import sentences, state_sentences
from yolov10_qat.compare.summary import Comparison, compare, comparison_schema
from yolov10_qat.core.config import PRIMARY, RunConfig, load_config
from yolov10_qat.core.doors import read_model
from yolov10_qat.report.page import render, write_summary_md
from yolov10_qat.runs.draws import Draws
from yolov10_qat.runs.folder import open_root
from yolov10_qat.runs.summary import load_summary

SCHEMA = json.loads((REPOSITORY/'yolov10_qat'/'schemas'/'comparison.schema.json').read_text())
N0, N1, S0, S1 = held()


@pytest.fixture
def runs_of(tmp_path):
    "Summaries as runs, by way of the disk."
    count = iter(range(99))
    return lambda *summaries: find_runs([store(tmp_path/f'set{next(count)}', *summaries)])[0]


def six(**kw):
    "Three methods, two seeds."
    return [vary(method=m, seed=s, shift=shift+.01*s, **kw) for m,
            shift in (('baseline', 0.), ('ema', 0.), ('ema+qc', 0.)) for s in (0, 1)]


# --- finding runs --------------------------------------------------------------------------------------------------------------------------

def test_folder_stands_for_all_runs_below_it(tmp_path):
    store(tmp_path/'a/deep/down', *held())
    inside = tmp_path/'a/deep/down'/N0['run_id']/'ultralytics/train'
    inside.mkdir(parents=True)
    (inside/'results.csv').write_text('epoch,metrics/mAP50-95(B)\n1,0.1\n')   # of the run, no run of its own
    (tmp_path/'loop').symlink_to(tmp_path)
    runs, problems = find_runs([tmp_path, tmp_path/'a/deep/down'/S0['run_id']/'run_summary.json'])
    assert sorted(r.id for r in runs) == sorted(s['run_id'] for s in held()) and not problems


@pytest.mark.parametrize(
    'make,message',
    [(lambda f: [], 'no run in no folder'), (lambda f: [f], 'no run_summary.json and no results.csv'),
     (lambda f: [f/'absent'], 'no runs at'),
     (lambda f: [(f/'a.txt', (f/'a.txt').touch())[0]], 'neither a folder with runs nor a results table')])
def test_zero_runs(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message): find_runs(make(tmp_path))


BROKEN = {'torn': ('{"schema_version": 1, ', 'is not JSON'),
          'newer': ('{"schema_version": 2}', 'schema_version 2; this version reads 1'),
          'foreign': ('[1, 2]', 'schema_version None'),
          'typo': (json.dumps(N0 | {'run_id': 'typo', 'colapsed': 1}), 'colapsed'), 'empty': ('', 'is not JSON'),
          'binary': ('\ud800', 'is not UTF-8 text')}

def test_broken_files_are_named_and_the_rest_summarised(tmp_path):
    store(tmp_path/'runs', *held())
    for name, (text, _) in BROKEN.items():
        (tmp_path/'runs'/name).mkdir()
        (tmp_path/'runs'/name/'run_summary.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    (tmp_path/'runs/table').mkdir()
    (tmp_path/'runs/table/results.csv').write_text('a,b\n1,2\n')
    result = write_comparison([tmp_path/'runs'], tmp_path/'out').result
    found = {Path(p.path).name: p.reason for p in result.problems}
    for name, (_, reason) in BROKEN.items(): assert reason in found[name]
    assert 'has no column epoch' in found['results.csv'] and len(found) == len(BROKEN)+1
    assert result.decision.allowed and len(result.variants) == 2
    page = (tmp_path/'out/report.html').read_text()
    for name in BROKEN: assert f'../runs/{name}' in page


def test_two_runs_with_the_same_id(tmp_path):
    store(tmp_path/'a', N0), store(tmp_path/'b', N0)
    with pytest.raises(ValueError) as error: find_runs([tmp_path])
    assert str(tmp_path/'a') in str(error.value) and str(
        tmp_path/'b') in str(error.value) and 'same run id' in str(error.value)
    assert len(find_runs([tmp_path/'a', tmp_path/'a'])[0]) == 1


LOGS = {'yolov10m-w4a16-scratch-collapse.csv': ('completed-failed', .2260, 29),
        'yolov10n-fp32-500epochs.csv': ('completed-success', .38485, 499)}

@pytest.mark.parametrize('name', LOGS)
def test_real_log_as_a_run(shared, tmp_path, name):
    "Given as a file, and as the results.csv of a folder."
    (tmp_path/'run').mkdir()
    shutil.copy(shared/'logs'/name, tmp_path/'run/results.csv')
    for path in (shared/'logs'/name, tmp_path/'run'):
        run, = find_runs([path])[0]
        s = run.summary
        assert (s.status, round(s.metrics.best_value, 5),
                s.metrics.best_epoch) == LOGS[name] and run.variant == run.method == 'unknown'


@pytest.mark.parametrize('header',
                         ['epoch,{}', '                  epoch,    {}  ', 'epoch,train/box_om,train/box_oo,{}',
                          'epoch,train/box_loss,{}'])
def test_old_and_padded_column_names(tmp_path, header):
    columns = header.count(',')+1
    rows = [[str(i+1)]+['9']*(columns-2)+[str(v)] for i, v in enumerate((.1, .3, .1))]
    (tmp_path/'results.csv').write_text('\n'.join([header.format(PRIMARY)] + [',  '.join(r) for r in rows]) + '\n')
    run, = find_runs([tmp_path])[0]
    assert (run.summary.status, run.summary.metrics.best_value,
            run.summary.metrics.best_epoch) == ('completed-failed', .3, 2)


def test_table_without_an_epoch_is_incomplete(tmp_path):
    (tmp_path/'results.csv').write_text(f'epoch,{PRIMARY}\n')
    assert find_runs([tmp_path])[0][0].summary.status == 'incomplete'


# --- what may be compared ------------------------------------------------------------------------------------------------------------------

OTHER = {'imgsz': ('model.imgsz', 640), 'data fingerprint': ('dataset.fingerprint', 'e'*64),
         'granularity': ('quantization.granularity', 'per_tensor'), 'weight bits': ('quantization.weight_bit_width', 3),
         'average bits': ('quantization.average_bits', 4.2)}

@pytest.mark.parametrize('field', OTHER)
def test_other_settings_are_flagged_and_not_averaged(runs_of, field):
    path, value = OTHER[field]
    runs = runs_of(N0, N1, vary(seed=2, shift=.1, changes={path: value}))
    variant, = compare(runs).variants
    flag, = variant.flagged
    assert flag.run == 'yolo10n-ema+qc-s2' and [d.field for d in flag.differences] == [field]
    assert str(value)[:12].replace('_', ' ') in flag.differences[0].value and flag.differences[0].reference == variant.settings[field]
    assert variant.arms[0].seeds == [0, 1] and len(variant.rows) == 3


def test_other_evaluation_is_flagged(runs_of):
    other = vary(seed=2)
    for rung in other['metrics']['rungs']: rung['images'] = 64
    variant, = compare(runs_of(N0, N1, other)).variants
    difference, = variant.flagged[0].differences
    assert difference.field == 'evaluation' and difference.value == 'one2one on 64 images, one2many on 64 images'


def test_reference_is_the_largest_group_then_the_earliest(runs_of):
    big = {'model.imgsz': 640}
    assert compare(runs_of(vary(seed=0), vary(seed=1, changes=big), vary(seed=2, changes=big))).variants[0].settings[
        'imgsz'] == '640'
    early, late = vary(seed=0), vary(seed=1, changes=big)
    late['created_at'] = '2027-01-01T00:00:00+00:00'
    assert compare(runs_of(early, late)).variants[0].settings['imgsz'] == '320'


def test_subset_drawn_by_the_seed_is_explained(runs_of):
    variant, = compare(runs_of(N0, vary(seed=1, changes={'dataset.fingerprint': 'e'*64}))).variants
    assert 'subset is drawn by the seed' in variant.flagged[0].hint and not differences(
        *[r.summary for r in runs_of(N0, N1)])


def test_incomplete_is_listed_and_never_averaged(runs_of):
    result = compare(runs_of(N0, N1, incomplete(vary(seed=2, shift=.3))))
    assert [r.run_id for r in result.incomplete] == [
        'yolo10n-ema+qc-s2'] and 'interrupted during train' in result.incomplete[0].error
    assert result.variants[0].arms[0].seeds == [0, 1] and result.variants[0].arms[0].best.mean < .25 and len(
        result.variants[0].rows) == 2
    alone = compare(runs_of(incomplete(N0)))
    assert not alone.variants and not alone.decision.allowed


def test_mean_and_spread(runs_of):
    values = [(s, .2+.013*s*s) for s in range(5)]
    found = over_seeds(values + [(0, .2), (7, None)])
    assert found.n == 5 and found.mean == pytest.approx(
        statistics.mean(v for _, v in values)) and found.spread == pytest.approx(statistics.stdev(v for _, v in values))
    arm, = compare(runs_of(*[vary(method='ema', seed=s, shift=.01*s*s) for s in range(4)])).variants[0].arms
    assert arm.end_ap.spread == pytest.approx(statistics.stdev(.204+.01*s*s for s in range(4)))
    assert over_seeds([(3, .2)]).spread is None


def test_repeats_that_disagree(runs_of):
    variant, = compare(runs_of(N0, N1, vary(run_id='again'), vary(run_id='other', shift=.003))).variants
    # a repeat is no seed
    assert variant.disagreements[0].runs == ['again', 'other', 'yolo10n-ema+qc-s0'] and variant.arms[0].end_ap.n == 2
    assert any(s.startswith('Repeats disagree: ema+qc with seed 0') and '0.21100' in s for s in sentences(variant))
    assert not compare(runs_of(N0, vary(run_id='again'))).variants[0].disagreements
    assert not compare(
        runs_of(N0, vary(run_id='longer', shift=.003, changes={'training.epochs': 50}))).variants[0].disagreements


def test_methods_trained_differently_are_not_pooled(runs_of):
    variant, = compare(
        runs_of(vary(method='ema'), vary(method='ema', seed=1, changes={'training.epochs': 50}),
                vary(method='baseline'))).variants
    assert {a.label for a in variant.arms} == {'baseline', 'ema, epochs 10', 'ema, epochs 50'}
    assert [s.split(':')[0] for s in sentences(variant) if 'against' in s] == ['ema, epochs 10 against baseline']


# --- what the sentences claim --------------------------------------------------------------------------------------------------------------

def test_sentences_claim_no_more_than_the_numbers_carry(runs_of):
    def said(*summaries): return ' '.join(sentences(compare(runs_of(*summaries)).variants[0]))
    assert 'this may be the chance of one training' in said(vary(method='baseline'), vary(method='ema'))
    three = [vary(method=m, seed=s, shift=.01*s) for m in ('baseline', 'ema') for s in range(3)]
    assert 'no difference is shown' in said(
        *three[:2], *three[3:5]) and 'above 0; with so few seeds it is a hint, not a proof' in said(*three)
    many = [vary(method=m, seed=s, shift=d+.001*s) for m, d in (('baseline', -.05), ('ema', 0.)) for s in range(5)]
    assert 'above 0.' in said(*many) and 'hint' not in said(*many)
    assert 'runs that failed among them' in said(vary(method='baseline', outcome='collapsed'),
                                                 vary(method='baseline', seed=1), vary(method='ema'),
                                                 vary(method='ema', seed=1))
    assert 'Without two seeds that both have' in said(vary(method='baseline', seed=0), vary(method='baseline', seed=1),
                                                      vary(method='ema', seed=2), vary(method='ema', seed=3))


@pytest.mark.parametrize(
    'gain,pieces',
    [(-.02, ['the gain is negative', '0 above 0, 2 below 0, 0 include 0']),
     (-.003, ['the gain is negative', '0 above 0, 0 below 0, 2 include 0: no change beyond chance']),
     (.003, ['+0.003 on average over 2 runs.', 'no change beyond chance']), (.02, ['2 above 0, 0 below 0'])])
def test_gain_is_called_what_it_is(runs_of, gain, pieces):
    said = sentences(compare(runs_of(*six(gain=gain))).variants[0])[-1]
    for piece in pieces: assert piece in said


def test_gain_without_interval_comes_from_the_states(runs_of):
    bare = vary(gain=.01)
    bare['metrics']['qc_gain'] = None
    variant, = compare(runs_of(bare)).variants
    assert variant.rows[0].qc_gain.difference == pytest.approx(
        .01) and variant.rows[0].qc_gain.low is None and 'No interval was computed' in sentences(variant)[-1]


# --- states, against plain training -----------------------------------------------------------------------------------------------------------

def test_interval_of_students_own_example():
    "Student (1908), additional hours of sleep with two drugs; the interval as R's paired t.test prints it."
    first = [.7, -1.6, -.2, -1.2, -.1, 3.4, 3.7, .8, 0., 2.]
    second = [1.9, .8, 1.1, .1, -.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    d = contrast(enumerate(second), enumerate(first))
    assert (d.mean, d.low, d.high) == pytest.approx((1.58, .7001142, 2.4598858), abs=1e-4) and d.word == 'helps'
    assert contrast(enumerate(first), enumerate(second)).word == 'hurts' and contrast([(0, 1.)], [(0, 2.)]).low is None
    many = contrast(enumerate(range(100)), enumerate([0]*100))
    # never narrower than the truth (1.984)
    assert many.high-many.mean == pytest.approx(2.042*statistics.stdev(range(100))/10)


STUDY = ('baseline', 'ema', 'dampen', 'ema+dampen', 'ema+qc', 'ema+dampen+qc')

def study(seeds=3, **kw):
    "Six methods of two trainings, with chance in it."
    chance = {True: (.034, .027, .030), False: (.002, -.003, .004)}
    return [vary(method=m, seed=s, shift=chance['dampen' in m][s % 3], **kw) for m in STUDY for s in range(seeds)]


def test_states_are_gathered_by_training(runs_of):
    summaries = study()
    random.Random(0).shuffle(summaries)
    variant, = compare(runs_of(*summaries)).variants
    assert [a.label for a in variant.arms] == list(STUDY)
    found = {s.label: (s.method, s.difference and s.difference.word) for s in variant.states}
    assert found == {'baseline: QAT raw': ('baseline', None), 'baseline: QAT EMA': ('ema', 'helps'),
                     'baseline: QC': ('ema+qc', 'helps'), 'dampen: QAT raw': ('dampen', 'helps'),
                     'dampen: QAT EMA': ('ema+dampen', 'helps'), 'dampen: QC': ('ema+dampen+qc', 'helps')}
    # three runs a seed are one seed
    assert list(found) == list(dict.fromkeys(found)) and all(s.seeds == [0, 1, 2] for s in variant.states)
    assert (state_sentences(variant)[0]
            == 'Of 5 states 5 are above plain training, 0 below, and 0 do not differ from it clearly.'
            and '5 comparisons were made' in state_sentences(variant)[2])
    raw = {s: [r.ap['qat_raw'] for r in variant.rows if r.seed == s and 'dampen' not in r.method] for s in range(3)}
    by_hand = [
        statistics.mean(r.ap['qat_raw'] for r in variant.rows if r.seed == s
                        and 'dampen' in r.method)-statistics.mean(raw[s]) for s in range(3)]
    d = next(s.difference for s in variant.states if s.label == 'dampen: QAT raw')
    assert (d.mean, d.high-d.mean) == pytest.approx(
        (statistics.mean(by_hand), 4.303*statistics.stdev(by_hand)/3**.5)) and not variant.disagreements


def test_correction_and_average_alone_have_their_reference_with_them(runs_of):
    variant, = compare(runs_of(N0, N1)).variants
    assert [s.reference for s in variant.states] == [None, 'baseline: QAT raw',
                                                     'baseline: QAT raw'] and variant.states[0].plain


def test_learned_steps_and_batch_norm_are_arms_of_one_comparison(runs_of):
    kinds = [dict(), dict(scale='learned'), dict(bn='reestimate'), dict(bn='freeze')]
    variant, = compare(runs_of(*[vary(method='ema', seed=s, shift=.01*s, **k) for k in kinds for s in (0, 1)])).variants
    assert {a.label for a in variant.arms} == {'ema', 'ema, scale learned', 'ema, batchnorm reestimate',
                                               'ema, batchnorm freeze'} and not variant.flagged
    labels = [s.label for s in variant.states]
    assert labels[:3] == ['baseline: QAT raw', 'baseline: QAT EMA',
                          'baseline: BN '
                          're-estimated'] and 'baseline, batchnorm freeze: QAT EMA' in labels and len(labels) == 7
    assert {s.reference for s in variant.states[1:]} == {'baseline: QAT raw'}


def test_a_recipe_is_compared_with_its_own_plain_training(runs_of):
    longer = {'training.epochs': 50}
    variant, = compare(
        runs_of(vary(method='baseline'), vary(method='baseline', run_id='a', changes=longer),
                vary(method='dampen', run_id='b', changes=longer),
                vary(method='freeze', run_id='c', changes={'training.epochs': 9}),
                vary(method='dampen', run_id='d', changes={'method.dampen.strength': 1.}))).variants
    found = {s.label: s.reference for s in variant.states}
    assert found['dampen, epochs 50: QAT raw'] == 'baseline, epochs 50: QAT raw' and found['freeze: QAT raw'] is None
    assert found['dampen, epochs 10: QAT raw'] == 'baseline, epochs 10: QAT raw' and sum(
        s.plain for s in variant.states) == 2


def test_few_seeds_say_little(runs_of):
    def said(*summaries): return state_sentences(compare(runs_of(*summaries)).variants[0])
    assert 'every difference may be chance' in said(*study(seeds=1))[0]
    assert said(vary(method='dampen'))[0].startswith(
        'No state can be compared') and said(vary(method='baseline'))[0].startswith('No state can be compared')
    assert said(vary(method='baseline', seed=0),
                vary(method='dampen', seed=1))[0].startswith('No state can be compared')


def test_raw_weights_that_methods_altered(runs_of):
    variant, = compare(
        runs_of(vary(method='baseline', shift=-.01), vary(method='ema'), vary(method='ema', seed=1))).variants
    assert [d.rung for d in variant.disagreements] == ['qat_raw'] and sentences(variant)[-1].startswith(
        'Raw weights of one training disagree: baseline with seed 0')


@pytest.mark.parametrize('count', range(1, 14))
def test_lines_in_one_figure_look_different(count):
    methods = ['baseline', 'ema', 'ema', 'ema', 'dampen', 'freeze', 'dampen', 'ema+dampen', 'ema+freeze', 'qc',
               'ema+qc', 'ema+dampen+qc', 'ema+freeze+qc'][:count]
    found = list(looks({f'{m} {i}': m for i, m in enumerate(methods)}).values())
    assert len(found) == count and len({f.color for f in found[:LINES]}) == len(
        {f.marker for f in found[:LINES]}) == min(count, LINES)


# --- words of other lengths ----------------------------------------------------------------------------------------------------------------

def test_each_word_length_has_its_section(tmp_path):
    store(tmp_path/'runs', *study(), *study(bits=3), *study(bits=2)[:2], S0)
    page = write_comparison([tmp_path/'runs'], tmp_path/'out')
    assert [v.label for v in page.result.variants] == ['yolo10n w4a16', 'yolo10n w3a16', 'yolo10n w2a16',
                                                       'yolo10s'] and not any(v.flagged for v in page.result.variants)
    assert [
        len(v.rows)
        for v in page.result.variants] == [18, 18, 2, 1] and page.result.variants[1].settings['quantisation'] == 'w3a16'
    assert {f'{k}-{n}' for k in ('curves', 'ladder', 'states')
            for n in ('yolo10n-w4a16', 'yolo10n-w3a16', 'yolo10s')} <= set(page.figures)
    html = (tmp_path/'out/report.html').read_text()
    read = Page(html)
    assert [t for t in ('yolo10n w4a16', 'yolo10n w3a16', 'yolo10s')
            if t not in read.text('h2')] == [] and 'id="variant-yolo10n-w3a16"' in html
    check_offline(read, html)


def test_gate_looks_at_four_bits(runs_of):
    three = [vary(v, seed=s, bits=3) for v in ('yolo10n', 'yolo10s') for s in (0, 1)]
    assert not gate(runs_of(*three)).allowed and gate(
        runs_of(*held(), vary(seed=2, bits=3, outcome='collapsed'))).allowed


def test_comparisons_of_earlier_versions_are_read():
    "What was published before states and modes were there."
    for file in (REPOSITORY/'reports').glob('*/comparison.json'):
        raw = json.loads(file.read_text())
        jsonschema.validate(raw, SCHEMA)
        assert Comparison.model_validate(raw).variants


# --- the gate ------------------------------------------------------------------------------------------------------------------------------

S_SAME, S_640 = vary('yolo10s', seed=0, run_id='again'), vary('yolo10s', seed=1, changes={'model.imgsz': 640})
REFUSED = {'nothing of a variant': ([N0, N1], 'yolo10s has no ema+qc run'),
           'one is missing':       ([N0, N1, S0], 'yolo10s has 1 of the 2 ema+qc runs'),
           'same seed':            ([N0, N1, S0, S_SAME], 'same seed 0 as again'),
           'collapsed':            ([N0, N1, S0, vary('yolo10s', seed=1, outcome='collapsed')],
                                    'collapsed: best 0.195, final 0.016'),
           'degenerate':           ([N0, N1, S0, vary('yolo10s', seed=1, outcome='degenerate')],
                                    'degenerate: it never scored above zero'),
           'incomplete':           ([N0, N1, S0, incomplete(S1)], 'incomplete: interrupted during train'),
           'not comparable':       ([N0, N1, S0, S_640], 'not comparable with the others: imgsz 640 instead of 320'),
           'other method':         ([N0, N1, S0, vary('yolo10s', 'ema', seed=1)], 'yolo10s has 1 of the 2 ema+qc runs'),
           'one of three fell':    ([*held(), vary(seed=2, outcome='collapsed')], 'yolo10n was not always stable'),}

@pytest.mark.parametrize('case', REFUSED)
def test_gate_refuses(runs_of, case):
    summaries, reason = REFUSED[case]
    decision = gate(runs_of(*summaries))
    assert not decision.allowed and reason in ' '.join(decision.reasons)


@pytest.mark.parametrize(
    'extra',
    [[], [incomplete(vary(seed=2))], [vary(seed=2, changes={'model.imgsz': 640})],
     [vary(method='baseline', outcome='collapsed')], [vary('yolo10m', 'ema', outcome='collapsed')]])
def test_gate_allows(runs_of, extra):
    decision = gate(runs_of(*held(), *extra))
    assert decision.allowed and sorted(decision.counted) == sorted(s['run_id'] for s in held()) and all(
        'was stable with ema+qc' in r for r in decision.reasons)


def test_variants_need_not_be_comparable_with_each_other(runs_of):
    assert gate(runs_of(N0, N1, *[vary('yolo10s', seed=s, changes={'model.imgsz': 640}) for s in (0, 1)])).allowed


M = dict(variant='yolo10m', method='ema+qc')

@pytest.mark.parametrize('root,reason',
                         [(None, 'No gate folder was named'), ('absent', 'no runs at'), ('empty', 'no run in'),
                          ('twins', 'same run id'), ('few', 'yolo10s has no ema+qc run')])
def test_yolo10m_needs_the_gate(tmp_path, root, reason):
    (tmp_path/'empty').mkdir()
    store(tmp_path/'few', N0, N1), store(tmp_path/'twins/a', N0), store(tmp_path/'twins/b', N0)
    folder = root and tmp_path/root
    with pytest.raises(GateError) as error: ask_gate(RunConfig(**M, gate_root=folder))
    assert reason in str(error.value) and '--ungated' in str(error.value) and '\n' not in str(error.value)
    let = ask_gate(RunConfig(**M, gate_root=folder, ungated=True))
    assert (let.allowed, let.ungated) == (False, True) and reason in let.reasons[0] + let.reasons[-1]


def test_gate_is_open(tmp_path):
    found = ask_gate(RunConfig(**M, gate_root=store(tmp_path/'runs', *held())))
    assert found.allowed and not found.ungated and found.root == str(tmp_path/'runs') and ask_gate(
        RunConfig(variant='yolo10s')) is None


REFUSED_RUN = '''
import sys
from yolov10_qat.cli import main
try: main(sys.argv[1:])
except SystemExit as e: print('status', e.code, *sorted({'torch', 'ultralytics', 'matplotlib', 'papermill'} & set(sys.modules)))
'''

def test_refused_run_touches_nothing(tmp_path):
    "It ends before anything slow is imported, which is what makes it quick, and before the data is looked for."
    words = ['run', '--variant', 'yolo10m', '--method', 'ema+qc', '--run-root', str(tmp_path/'run'), '--coco-root',
             str(tmp_path/'nowhere')]
    done = subprocess.run([sys.executable, '-c', REFUSED_RUN, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == 'status 1' and done.stderr.startswith(
        'error: yolo10m may not start') and len(done.stderr.splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_experiment_by_hand_asks_too(tmp_path):
    from yolov10_qat.pipeline.experiment import Experiment
    with pytest.raises(GateError): Experiment(RunConfig(**M, run_root=tmp_path/'run'))
    assert not (tmp_path/'run').exists()


def test_ungated_run_starts_and_says_so(tmp_path, tiny):
    "It gets as far as the missing weights; summary, Markdown and report carry the record."
    root = tmp_path/'run'
    done = command('run', '--variant', 'yolo10m', '--ungated', '--run-root', root, '--coco-root', tiny/'coco',
                   '--base', tmp_path/'none.pt')
    assert done.returncode == 1 and 'may not start' not in done.stderr and load_config(root/'run_config.yaml').ungated
    assert load_summary(root).gate.model_dump() == {'allowed': False, 'ungated': True,
                                                    'reasons': ['No gate folder was named.'], 'root': None}
    for name in ('summary.md', 'report.html'):
        assert 'Started without a passing gate (--ungated)' in (root/name).read_text()


def test_gate_is_recorded_and_survives_a_resume(tmp_path):
    config = RunConfig(**M, run_root=tmp_path/'run', gate_root=store(tmp_path/'runs', *held()))
    root = open_root(config, gate=ask_gate(config))
    open_root(config, resume=True)
    assert load_summary(root).gate.allowed
    write_summary_md(root), render(root)
    assert 'Started through the gate: yolo10n was stable' in (root/'summary.md').read_text()


# --- the page ------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def written(tmp_path_factory):
    "A comparison with everything in it."
    folder = tmp_path_factory.mktemp('many')
    store(folder/'runs', *six(gain=-.003), S0, vary('yolo10s', seed=1, outcome='collapsed'),
          vary(seed=7, run_id='<b>"7"|', changes={'model.imgsz': 640}), incomplete(vary(seed=3)))
    (folder/'runs'/N0['run_id']/'report.html').write_text('a report')
    (folder/'table').mkdir()
    (folder/'table/results.csv').write_text(f'epoch,{PRIMARY}\n1,0.2\n2,0.01\n')
    page = write_comparison([folder/'runs', folder/'table'], folder/'out')
    return folder, page


def test_page_reads_well_offline(written):
    folder, page = written
    file = folder/'out/report.html'
    html = file.read_text()
    read = Page(html)
    check_offline(read, html)
    assert file.stat().st_size < 2_000_000 and read.text('h1').startswith(
        'baseline / ema / ema+qc on yolo10n / yolo10s: ')
    assert len(read.all('img')) == len(page.figures) == 8
    for image in read.all('img'):
        assert re.search(r'\d', image['alt']) and image['alt'].endswith('.') and image['src'].startswith('data:image/')
    ids = [attrs['id'] for _, attrs in read.tags if 'id' in attrs]
    assert len(ids) == len(set(ids)) and {a['href'][1:] for a in read.all('a') if a['href'].startswith('#')} <= set(ids)
    assert len(re.findall(r'<div class="scroll[^>]*><table', html)) == len(read.all('table'))
    for link in read.all('a'):
        if not link['href'].startswith('#'): assert (folder/'out'/link['href'].replace('%2B', '+')).is_file(), link
    assert 'GATE' not in read.text() and 'may start' not in read.text()
    for text in ('not compared', 'imgsz', 'KeyboardInterrupt: interrupted during train', 'the gain is negative',
                 'On yolo10n, the two highest of 3 methods: ema against ema+qc', 'completed-failed', '158', 'Against plain training', 'Of 2 states',
                 'indistinguishable', 'reference'):
        assert text in read.text()
    assert '<b>"7"' not in html and '<b>"7"|' in read.text()


def test_json_keeps_its_contract(written):
    folder, page = written
    raw = json.loads((folder/'out/comparison.json').read_text())
    jsonschema.validate(raw, SCHEMA)
    assert Comparison.model_validate(raw) == page.result and raw['schema_version'] == 1
    assert not [r['folder'] for v in raw['variants'] for r in v['rows'] if os.path.isabs(r['folder'])]


def test_shipped_schema_is_the_code_s():
    assert (REPOSITORY/'yolov10_qat/schemas/comparison.schema.json').read_text() == comparison_schema()


def test_tables(written):
    folder, _ = written
    rows = list(csv.DictReader((folder/'out/summary.csv').open()))
    assert len(rows) == 11 and sum(r['compared'] == 'True' for r in rows) == 8
    one = next(r for r in rows if r['run_id'] == 'yolo10n-ema+qc-s1')
    assert one['mode'] == 'w4a16' and one['arm'] == 'ema+qc' and next(
        r for r in rows if r['compared'] == 'False')['arm'] == ''
    assert float(one['AP_qc']) - float(one['AP_qat_ema']) == pytest.approx(
        float(one['qc_gain'])) and one['status'] == 'completed-success'
    text = (folder/'out/summary.md').read_text()
    assert text.startswith('# baseline / ema / ema+qc on yolo10n / yolo10s: ') and 'GATE' not in text and '&lt;b&gt;"7"\\|' in text and '## Incomplete: not averaged' in text
    tables = re.findall(r'(?:^\|.*\n)+', text, re.M)
    assert all(len({len(re.findall(r'(?<!\\)\|', line)) for line in t.splitlines()}) == 1
               for t in tables) and len(tables) >= 6


def test_old_figures_go_and_other_folders_stay(tmp_path):
    store(tmp_path/'runs', *held())
    write_comparison([tmp_path/'runs'], tmp_path/'out')
    write_comparison([tmp_path/'runs'/N0['run_id']], tmp_path/'out')
    assert {p.stem for p in (tmp_path/'out/figures').iterdir()} == {
        'curves-yolo10n', 'ladder-yolo10n', 'states-yolo10n', 'forest'}
    for other in (tmp_path, tmp_path/'runs'/N0['run_id']):
        with pytest.raises(FileExistsError, match='contains other things'): write_comparison([tmp_path/'runs'], other)


def test_every_interval_says_what_is_not_in_it(runs_of):
    "Over seeds the images are not in it, over images the training is not; twins are one training each."
    found = compare(runs_of(*six())).variants[0]
    pairs = [t for t in sentences(found) if ' against ' in t]
    assert len(pairs) == 2 and all('The 95% interval over seeds alone is' in t for t in pairs)
    assert [('The images were not drawn again' in t) ^ ('no difference is shown' in t) for t in pairs] == [True, True]
    assert any('The images were not drawn again' in t for t in pairs)
    gain, = [t for t in sentences(found) if t.startswith('QC changes')]
    assert 'over the images of one training: the chance of training, another seed, is not in it' in gain
    assert 'The images were not drawn again' in ' '.join(state_sentences(found))


def test_over_seeds_and_images(tmp_path):
    "The files in numpy alone; then the page, Markdown and JSON say that interval and what it is over."
    study = [vary(method=m, seed=s, shift=.01*s + .04*(m == 'ema')) for m in ('baseline', 'ema') for s in (0, 1, 2)]
    runs = store(tmp_path/'runs', *study)
    for s in study: keep_draws(runs/s['run_id'], .01)
    aps = {s['run_id']: np.array(json.loads((runs/s['run_id']/'evaluation'/f'qat_{r}-one2one-draws.json').read_text())['AP'])
           for s in study for r in (('ema',) if s['method']['variant'] == 'ema' else ('raw',))}
    change_sb = np.array([aps[f'yolo10n-ema-s{s}'] - aps[f'yolo10n-baseline-s{s}'] for s in (0, 1, 2)])
    mean, of_seeds, of_images = change_sb[:, 0].mean(), np.std(change_sb[:, 0], ddof=1), np.std(change_sb[:, 1:].mean(axis=0), ddof=1)
    half = np.sqrt((4.303*of_seeds)**2/3 + (1.96*of_images)**2)
    write_comparison([runs], tmp_path/'out')
    [pair] = json.loads((tmp_path/'out/comparison.json').read_text())['variants'][0]['pairs']
    d = pair['difference']
    assert (pair['new'], pair['old'], d['n'], d['draws'], d['word']) == ('ema', 'baseline', 3, 40, 'helps')
    assert (d['mean'], d['low'], d['high']) == pytest.approx((mean, mean-half, mean+half), abs=1e-12)
    assert half > 1.02*4.303*of_seeds/3**.5  # wider than over seeds alone
    for name in ('report.html', 'summary.md'):
        text = (tmp_path/'out'/name).read_text()
        assert 'over seeds and images together is' in text and ': a difference is shown' in text and 'drawn again:' not in text, name
    shutil.rmtree(runs/'yolo10n-ema-s1/evaluation')  # one run without them, and nothing is called shown
    write_comparison([runs], tmp_path/'out')
    text = (tmp_path/'out/report.html').read_text()
    assert 'The 95% interval over seeds alone is' in text and 'a difference is shown' not in text


def test_what_a_run_chose_is_compared(runs_of):
    "Three runs deliver two states; each counts with its own, by the summaries alone."
    study = [vary(method=m, seed=s) for m in ('baseline', 'ema') for s in (0, 1, 2)]
    for s, rung in zip(study[3:], ('qat_raw', 'qat_ema', 'qat_ema')):
        s['metrics']['selection'] = dict(delivered=rung, images=40, scores=[dict(rung=rung, AP=.3)])
    variant = compare(runs_of(*study)).variants[0]
    def ap(s, rung):
        return next(r['AP'] for r in s['metrics']['rungs'] if (r['rung'], r['head'], r['metrics_source']) == (rung, 'one2one', 'pycocotools'))
    changes = [ap(new, new['metrics']['selection']['delivered']) - ap(old, 'qat_raw') for new, old in zip(study[3:], study)]
    [pair] = variant.pairs
    assert pair.difference.mean == pytest.approx(statistics.fmean(changes)) and changes[0] == 0 != changes[1]
    assert variant.arms[1].ends == {'qat_ema': 2, 'qat_raw': 1}


def test_draws_of_version_1_open():
    "Of the demo, the first forty of its draws."
    kept = read_model(REPOSITORY/'tests/examples/draws-v1.json', Draws)
    assert (kept.rung, kept.head, kept.images, len(kept.AP), kept.AP[0]) == ('qc', 'one2one', 96, 41, .520558)


@pytest.mark.parametrize('text, reason', [
    ('{', 'is not JSON'), ('{"AP": [0.1]}', 'rung'), (None, 'the summary says'), ('[]', 'should be a valid dictionary'), ('{"rung": "fp", "rung": "qc"}', 'twice')])
def test_draws_of_another_run_or_a_stranger(tmp_path, text, reason):
    "They are named and left out; the run stays."
    root = store(tmp_path/'runs', N0)/N0['run_id']
    keep_draws(root, .01)
    file = root/'evaluation/qc-one2one-draws.json'
    file.write_text((root/'evaluation/fp-one2one-draws.json').read_text() if text is None else text)
    [run], [problem] = find_runs([root])
    assert problem.path == str(file) and reason in problem.reason and len(problem.reason.splitlines()) == 1
    assert len(run.aps('qc')) == 1 and len(run.aps('qat_ema')) == 41


@pytest.mark.parametrize('asked', [False, True])
def test_the_gate_is_there_where_somebody_asked_for_it(tmp_path, asked):
    runs = store(tmp_path/'runs', *held(), *([incomplete(vary('yolo10m'))] if asked else []))
    write_comparison([runs], tmp_path/'out')
    for name in ('report.html', 'summary.md'):
        text = (tmp_path/'out'/name).read_text()
        assert text.count('GATE OPEN: yolo10m may start') == asked == text.count('yolo10n was stable with ema+qc:'), name
    assert json.loads((tmp_path/'out/comparison.json').read_text())['decision']['allowed']  # the contract stays


def test_a_run_that_was_ended_early_contradicts_nobody(runs_of):
    "The raw weights of its last epoch are not those of a run of the same training that went on."
    lost = dict(rule='collapse', reason='below half of its best', after=4, epochs=10)
    early = vary(method='baseline', shift=-.05, changes={'stopped': lost})
    assert 'Raw weights' not in ' '.join(sentences(compare(runs_of(early, vary())).variants[0]))
    both = compare(runs_of(early, vary(changes={'stopped': lost})))
    assert 'Raw weights of one training disagree' in ' '.join(sentences(both.variants[0]))


def test_a_ptq_bar_is_of_one_grid(runs_of):
    "Three ways to round, two seeds each: three bars, none of them a mean of two grids."
    scores = {'stats': .03, 'learned': .2, 'closed': .28}
    def rounded(kind, seed):
        s = vary(seed=seed, scale='stats' if kind == 'stats' else 'learned', run_id=f'{kind}{seed}',
                 changes={'quantization.init_ptq': 'closed' if kind == 'closed' else None})
        for r in s['metrics']['rungs']: r['AP'] = scores[kind] if r['rung'] == 'ptq' else r['AP']
        return s
    found = compare(runs_of(*[rounded(k, s) for k in scores for s in (0, 1)])).variants[0]
    bars = {s.label: s.stat.mean for s in steps(found) if s.rung == 'ptq'}
    assert sorted(bars.values()) == pytest.approx([.03, .2, .28]) and len(bars) == 3, bars
    assert next(ap for label, ap in bars.items() if 'start ptq closed' in label) == pytest.approx(.28)
    assert [s.label for s in steps(compare(runs_of(N0, N1)).variants[0])][:2] == ['FP32', 'PTQ']


def test_nothing_to_draw_is_a_sentence(tmp_path):
    page = write_comparison([store(tmp_path/'runs', incomplete(N0))], tmp_path/'out')
    read = Page((tmp_path/'out/report.html').read_text())
    assert not page.figures and not read.all('img') and 'No completed run has a correction' in read.text()


def test_many_runs_are_aggregated(tmp_path, runs_of):
    runs = runs_of(*[vary(method=m, seed=s, shift=.001*(s % 7)) for m in ('ema', 'ema+qc') for s in range(TREES+1)])
    result = compare(runs)
    assert len(forest(result)) == 1 and forest(result)[0].label == f'yolo10n ema+qc, {TREES+1} seeds'
    assert len(lines(result.variants[0], runs)) == 2 and TREES+1 > SEEDS
    many = store(tmp_path/'many', *[vary(method='ema', seed=s, shift=.0001*s) for s in range(MOST_RUNS+3)])
    write_comparison([many], tmp_path/'out')
    assert '3 more are in summary.csv' in Page((tmp_path/'out/report.html').read_text()).text() and len(
        (tmp_path/'out/summary.csv').read_text().splitlines()) == MOST_RUNS+4


# --- the command ---------------------------------------------------------------------------------------------------------------------------

ENDS = 'ema+qc on yolo10n / yolo10s: ema+qc on yolo10n ends highest at AP 0.213 ± 0.007, 68% of FP32, 2 seeds'


def test_summarize(tmp_path):
    store(tmp_path/'runs', *held())
    done = command('summarize', 'runs', '--out', 'out', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['settings: run_roots=runs out=out', ENDS,
                                        f'report: {tmp_path/"out"/"report.html"}']
    assert sorted(os.listdir(tmp_path/'out')) == ['compare.ipynb', 'comparison.json', 'figures', 'report.html',
                                                  'summary.csv', 'summary.md']
    notebook = (tmp_path/'out/compare.ipynb').read_text()
    assert ENDS in notebook and 'image/png' in notebook and 'compare.ipynb' in (
        tmp_path/'out/report.html').read_text()


def test_summarize_refuses_in_one_line(tmp_path):
    def refused(words, *pieces, code=1):
        done = command('summarize', *words, cwd=tmp_path)
        assert done.returncode == code and len(
            done.stderr.splitlines()) == 1 and done.stderr.startswith('error: '), done.stderr
        for piece in pieces: assert piece in done.stderr
    store(tmp_path/'runs', N0), store(tmp_path/'copy', N0), (tmp_path/'empty').mkdir()
    refused(['empty', '--out', 'out'], 'no run in empty')
    refused(['runz', '--out', 'out'], "did you mean 'runs'?")
    refused(['runs', '--out', 'runs'], 'contains other things')
    refused(['runs'], '--out is missing', code=2)
    assert not (tmp_path/'out').exists()
    refused(['runs', 'copy', '--out', 'out'], 'have the same run id')
