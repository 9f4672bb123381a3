"Stored summaries made from the example by small changes: what comparison and gate are shown and tested on."
import json
import zlib
from copy import deepcopy
from pathlib import Path

import numpy as np

from yolov10_qat.runs.results import judge, status_word

EXAMPLE = json.loads((Path(__file__).parent/'examples'/'run_summary-v1.json').read_text(encoding='utf-8'))
OUTCOMES = {
    'stable': [.087, .157, .195, .202, .208, .204],
    'collapsed': [.087, .157, .195, .090, .030, .012],
    'degenerate': [0.]*6,
}
LEADS = (.020, .026, .014)  # of the averaged weights over the raw ones, by seed
GAIN = {'difference': .004, 'low': -.002, 'high': .010, 'level': .95, 'images': 158, 'resamples': 1000,
        'from': 'qat_ema', 'to': 'qc', 'head': 'one2one'}


def vary(variant='yolo10n', method='ema+qc', seed=0, outcome='stable', shift=0., gain=None, run_id=None, changes=None,
         bits=4, scale='stats', bn='train'):
    """A summary as it lies on disk. `shift` is added to every score after training, `gain` becomes the difference of QC,
    `changes` maps dotted paths (`model.imgsz`) to values. Raw weights of one training are the same whatever comes after it."""
    s = deepcopy(EXAMPLE)
    parts = set(method.split('+'))
    s['quantization']['layers'] = s['quantization']['layers'][:1]
    s['training']['epochs'] = s['training']['overrides']['epochs'] = 10  # the budget of the profile short
    s['dataset'] |= {'train_images': 2048, 'val_images': 256}
    s['run_id'] = run_id or f'{variant}-{method}-s{seed}' + f'-w{bits}'*(bits != 4) + f'-{scale}'*(
        scale != 'stats') + f'-{bn}'*(bn != 'train')
    s['quantization'] |= {'mode': f'w{bits}a16', 'weight_bit_width': bits,
                          'average_bits': s['quantization']['average_bits']-4+bits, 'scale': scale}
    if scale == 'learned': s['quantization'] |= {'scale_init': 'mse', 'scale_lr': 1e-3}
    s['model']['variant'], s['method']['variant'] = variant, method
    s['training']['seed'] = s['dataset']['selection']['seed'] = s['training']['overrides']['seed'] = seed
    s['method']['ema'] = {'enabled': True, 'decay': .907, 'tau': 5.4} if 'ema' in parts else {'enabled': False}
    s['method']['qc'] = {'enabled': True, 'epochs': 1, 'lr': 1e-4,
                         'bn_stats_fixed': True} if 'qc' in parts else {'enabled': False}
    s['method']['dampen'] = {'enabled': True, 'strength': .1, 'aggregation': 'sum', 'start': .25,
                             'end': 1.} if 'dampen' in parts else {'enabled': False}
    s['method']['freeze'] = {'enabled': True, 'threshold_first': .1, 'threshold_last': .01, 'start': .25,
                             'end': 1.} if 'freeze' in parts else {'enabled': False}
    s['method']['oscillation'] = {'momentum': .01, 'threshold': .005, 'interval': 1}
    s['method']['batchnorm'] = {'strategy': bn, 'batches': 50 if bn == 'reestimate' else None}
    lead = LEADS[seed % len(LEADS)]
    _score(s, parts, lead, [max(0., v+shift-lead*('ema' not in parts)) if v else 0. for v in OUTCOMES[outcome]],
           .004 if gain is None else gain)
    for path, value in (changes or {}).items():
        *way, last = path.split('.')
        block = s
        for name in way: block = block[name]
        block[last] = value
    return s


def _score(s, parts, lead, history, gain):
    final = history[-1] + (gain if 'qc' in parts and history[-1] else 0)
    found, stability = judge(history, final)
    s['metrics'] |= found | {'history': [{'epoch': i+1, 'value': v, 'raw': None} for i, v in enumerate(history)]}
    s['stability'], s['status'] = stability.model_dump(), status_word(found['best_value'], stability)
    trained = {'qat_raw': max(0., history[-1]-lead) if 'ema' in parts else history[-1]} | (
        {'qat_ema': history[-1]} if 'ema' in parts else {}) | ({'qc': final} if 'qc' in parts else {})
    if s['method']['batchnorm']['strategy'] == 'reestimate': trained['bn_reestimated'] = history[-1]+.003
    rungs = [r for r in s['metrics']['rungs'] if r['rung'] in ('fp', 'ptq')]
    pattern = [r for r in rungs if r['rung'] == 'fp']
    s['metrics']['rungs'] = rungs + [r | {'rung': name, 'AP': ap, 'AP50': 1.5*ap} for name,
                                     ap in trained.items() for r in pattern]
    if 'qc' in parts: s['metrics']['qc_gain'] = GAIN | {'difference': gain, 'low': gain-.006, 'high': gain+.006}


def incomplete(summary):
    "The same run, interrupted in its third epoch."
    return summary | {'status': 'incomplete',
                      'error': {'type': 'KeyboardInterrupt', 'message': 'interrupted during train', 'epoch': 3}}


def store(folder, *summaries):
    "Each summary as a run root below `folder`, named by its run id; the folder."
    for s in summaries:
        root = Path(folder)/s['run_id']
        root.mkdir(parents=True)
        (root/'run_summary.json').write_text(json.dumps(s), encoding='utf-8')
    return Path(folder)


def keep_draws(root, spread, draws=40):
    "What a run keeps of each state on images drawn again: the same luck for all states and runs, and a little of their own."
    summary = json.loads((root/'run_summary.json').read_text(encoding='utf-8'))
    luck = np.random.default_rng(0).normal(size=draws)
    (root/'evaluation').mkdir()
    for rung in summary['metrics']['rungs']:
        if (rung['head'], rung['metrics_source']) != ('one2one', 'pycocotools'): continue
        own = np.random.default_rng(zlib.crc32(f"{summary['run_id']} {rung['rung']}".encode())).normal(size=draws)
        ap = np.clip(rung['AP'] + .02*luck + spread*own, 0, 1).tolist()
        content = dict(format_version=1, rung=rung['rung'], head='one2one', images=rung['images'], AP=[rung['AP'], *ap])
        text = json.dumps(content, separators=(',', ':'))
        (root/f"evaluation/{rung['rung']}-one2one-draws.json").write_text(text, encoding='utf-8')


def held():
    "The four runs that open the gate."
    return [vary(variant, seed=seed, shift=.01*seed) for variant in ('yolo10n', 'yolo10s') for seed in (0, 1)]
