"A made-up run root with plausible numbers, written in milliseconds: what report, summary and comparison tests read."
import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from yolov10_qat.core.config import PRIMARY, RunConfig, save_config
from yolov10_qat.core.files import file_sha256
from yolov10_qat.runs.results import judge, status_word
from yolov10_qat.runs.summary import Confidence, Exported, Failure, QcGain, Rung, RunSummary, save_summary

CLASSES = ['person', 'bicycle', 'traffic light', 'cat', 'stop sign']
IMAGES, EPOCHS = 8, 6
CURVES = {  # score of the primary weights after each epoch, as a share of FP
    'stable': [.35, .58, .66, .71, .75, .74],
    'collapsed': [.35, .58, .66, .30, .12, .04],
    'degenerate': [0., 0., 0., 0., 0., 0.],
}
FP = .312


def make_run(root, method='ema', outcome='stable', stage='complete', classes=CLASSES, run_id='fake-run', epochs=EPOCHS,
             tracked=True, measured=False):
    """Write a run root. `stage`: start (summary and configuration only), before (data, FP and PTQ scored), training (half of the
    epochs, then a crash) or complete. `tracked`: with oscillation.csv and .json; `measured`: with batchnorm.csv, sensitivity.csv and
    keep-layers.json."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    config = RunConfig(method=method, run_root=str(root), coco_root='data/coco', epochs=epochs, imgsz=320,
                       train_max_images=288, val_max_images=IMAGES)
    save_config(config, root/'run_config.yaml')
    summary, parts = RunSummary(run_id=run_id, created_at='2026-01-02T03:04:05+00:00'), method.split('+')
    if stage == 'start': return _finish(root, summary)
    rungs = {'fp': 1., 'ptq': .08}
    _describe(summary, config, stage)
    truth = write_dataset(root, classes)
    if stage != 'before':
        done = epochs if stage == 'complete' else epochs//2
        shares = [CURVES[outcome][min(i, EPOCHS-1)] for i in range(done)]
        write_results(root, [FP*s for s in shares], [FP*s*.93 for s in shares] if 'ema' in parts else None)
        _score(summary, [FP*s for s in shares])
        layers = [(layer.name, layer.kind, math.prod(layer.shape)) for layer in summary.quantization.layers
                  if layer.bits]
        if tracked: write_oscillation(root, layers, done, 'freeze' in parts)
        if measured:
            write_batchnorm(root, layers)
            write_sensitivity(root, layers)
    if stage == 'complete':
        rungs |= {'qat_raw': CURVES[outcome][-1]*(.93 if 'ema' in parts else 1)} | (
            {'qat_ema': CURVES[outcome][-1]} if 'ema' in parts else {})
        if 'qc' in parts: rungs |= _correct(root, summary, shares)
        (root/'evaluation').mkdir(exist_ok=True)
        (root/'evaluation'/'weights.json').write_text(
            json.dumps({'layers': [_layer('model.0.conv'), _layer('model.23.one2one_cv2.0.0.conv')]}))
        summary.exports = write_exports(root)
        summary.metrics.confidence = fake_confidence([*rungs][-1], classes)
        summary.status, summary.error = status_word(summary.metrics.best_value, summary.stability), None
        for name in ('last', 'best'):
            (root/f'ultralytics/train/weights/{name}.pt').parent.mkdir(parents=True, exist_ok=True)
            (root/f'ultralytics/train/weights/{name}.pt').write_bytes(b'0'*4096)
    for rung, share in rungs.items():
        for head in ('one2one', 'one2many'):
            summary.metrics.rungs += write_evaluation(root, rung, head, share, classes, truth)
    return _finish(root, summary)


def write_exports(root):
    "Three files that such a run might have written, as far as a report looks at them."
    (root/'export').mkdir(exist_ok=True)
    def one(name, format, output, codes, structure, runtime, latency):
        (root/'export'/name).write_text(name)
        return dict(path=f'export/{name}', format=format, output=output, imgsz=320,
                    sha256=file_sha256(root/'export'/name), latency=latency,
                    sizes=dict(file=codes+72_000+structure, codes=codes, scales=36_000, floats=36_000,
                               structure=structure, fp32_file=9_190_000, fp16_file=4_640_000, average_bits=4.),
                    parity=dict(head='one2many' if output == 'one2many' else 'one2one', runtime=runtime, raw_images=8,
                                raw_boxes=7e-6, raw_scores=3e-6, images=IMAGES, ap=.2301, ap_torch=.2301))
    return [Exported.model_validate(e)
            for e in (one('yolo10n-w4.safetensors', 'packed', 'one2one', 1_140_000, 34_000, 'torch', None),
                      one('yolo10n-w4-one2one.onnx', 'onnx-int4', 'one2one', 1_140_000, 150_000, 'onnxruntime',
                          dict(own_ms=61.2, fp32_ms=44.8, turns=9)),
                      one('yolo10n-w4-one2many.onnx', 'onnx-int4', 'one2many', 1_140_000, 149_000, 'onnxruntime',
                          dict(own_ms=60.9, fp32_ms=44.5, turns=9)))]


def fake_confidence(rung='qc', classes=[f'class {i}' for i in range(80)]):
    "Scores that fell by a fifth: what FP32 shows at 0.25 needs 0.2."
    def curve(shrink):
        sure = [t/100/shrink for t in range(101)]
        return dict(precision=[.4+.6*s**.5 if s < 1 else None for s in sure],
                    recall=[.8*shrink*max(0., 1-s)**1.2 for s in sure])
    def shift(median, pairs):
        return dict(pairs=pairs, median=median, lower=median-.06, upper=median+.05, precision=.7, threshold=.2, low=.17,
                    high=.23, recall=.56, recall_after=.45)
    rows = [shift(round(-.2+.003*i, 3), 20+(37*i) % 300) | dict(category_id=i+1, name=name)
            for i, name in enumerate(classes)]
    return Confidence(rung=rung, images=IMAGES, iou=.5, reference=.25, resamples=300, level=.95, least=20,
                      overall=shift(-.06, 412), per_class=rows, before=curve(1), after=curve(.8))


def _finish(root, summary):
    save_summary(summary, root)
    return root


def _describe(summary, config, stage):
    summary.git.commit, summary.git.branch, summary.git.dirty = '0123456789abcdef0123456789abcdef01234567', 'main', True
    summary.environment = {'python': '3.11.7', 'torch': '2.15.0', 'ultralytics': '8.4.190', 'brevitas': '0.13.4',
                           'platform': 'Linux x86_64, 2 cores'}
    shapes = [[16, 3, 3, 3], [32, 16, 3, 3], [32, 1, 3, 3], [64, 32, 1, 1]]
    layers = [
        dict(name=f'model.{i}.conv', kind=('conv', 'conv', 'depthwise', 'pointwise')[i % 4], shape=shapes[i % 4],
             bits=4, granularity='per_channel') for i in range(11)]
    layers.append(
        dict(name='model.23.dfl.conv', kind='dfl', shape=[1, 16, 1, 1], bits=None, granularity=None,
             kept_why='fixed 0..15 ramp: nothing is learned in it'))
    ema, qc = ('ema' in config.method.split('+')), ('qc' in config.method.split('+'))
    blocks = dict(
        model=dict(variant=config.variant, checkpoint='weights/base.pt', checkpoint_sha256='ab'*32, imgsz=config.imgsz),
        quantization=dict(mode='w4a16', weight_bit_width=4, granularity='per_channel', scale='stats',
                          layers_quantized=11, layers_kept=1, average_bits=4.01, layers=layers),
        method=dict(variant=config.method, ema=dict(enabled=ema, decay=.907 if ema else None, tau=5.4 if ema else None),
                    qc=dict(enabled=True, epochs=1, lr=1e-4, bn_stats_fixed=True, scope='all') if qc
                    else dict(enabled=False)),
        dataset=dict(coco_root='data/coco', dataset_yaml='dataset/dataset.yaml', train_images=288, val_images=IMAGES,
                     fingerprint='cd'*32, selection=dict(seed=0)),
        training=dict(framework='ultralytics 8.4.190', epochs=config.epochs, batch=16, seed=0, device='cpu', amp=False,
                      overrides=dict(lr0=1e-4)), timings=dict(dataset=1.5, baseline=21., training=262., evaluation=31.))
    full = RunSummary.model_validate(summary.model_dump() | blocks)
    for name in blocks: setattr(summary, name, getattr(full, name))
    summary.error = Failure(type='KeyboardInterrupt', message='interrupted by SIGINT',
                            epoch=4 if stage == 'training' else None)


def _correct(root, summary, shares):
    "QC that brought a little."
    rows = [
        dict(step=i+1, box_loss=1.2-.01*i, cls_loss=1.9-.02*i, dfl_loss=.9, gamma_mean=1e-4*(i+1)*.6,
             gamma_max=1e-4*(i+1), beta_mean=5e-5*(i+1), beta_max=1e-4*(i+1)) for i in range(18)]
    (root/'qc').mkdir(exist_ok=True)
    (root/'qc/history.csv').write_text(
        '\n'.join([','.join(rows[0])] + [','.join(f'{v:.6g}' for v in r.values()) for r in rows]) + '\n')
    (root/'qc/corrected.pt').write_bytes(b'0'*4096)
    share = shares[-1] + .03
    _score(summary, [FP*s for s in shares], FP*share*1.004)
    summary.metrics.qc_gain = QcGain(before='qat_ema' if summary.method.ema.enabled else 'qat_raw', difference=.03*FP,
                                     low=-.002, high=.019, images=IMAGES, resamples=300, level=.95)
    return {'qc': share}


def _score(summary, history, final=None):
    found, summary.stability = judge(history, final)
    for name, value in found.items(): setattr(summary.metrics, name, value)
    summary.metrics.history = [dict(epoch=i+1, value=v) for i, v in enumerate(history)]


def write_results(root, primary, raw=None):
    "Ultralytics' table, with the project's raw/ columns where there is a second score."
    rows = []
    for i, score in enumerate(primary):
        fall = math.exp(-.4*i)
        row = {'epoch': i+1, 'time': 40.*(i+1)}
        row |= {f'{split}/{part}_loss': round(base*(floor+.5*fall), 5) for split,
                floor in (('train', 1.), ('val', 1.15)) for part, base in (('box', 1.2), ('cls', 1.8), ('dfl', .9))}
        row |= {'metrics/precision(B)': score*1.6, 'metrics/recall(B)': score*1.3, 'metrics/mAP50(B)': score*1.5,
                PRIMARY: score, 'lr/pg0': 1e-4*(1-.9*i/len(primary))}
        if raw:
            row |= {'raw/precision(B)': raw[i]*1.6, 'raw/recall(B)': raw[i]*1.3, 'raw/mAP50(B)': raw[i]*1.5,
                    'raw/mAP50-95(B)': raw[i]}
        rows.append(row)
    file = Path(root)/'ultralytics/train/results.csv'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join([','.join(rows[0])] + [','.join(f'{v:.6g}' for v in r.values()) for r in rows]) + '\n')


def write_dataset(root, classes):
    "Small pictures of coloured rectangles; returns their annotations."
    dice, images, annotations = random.Random(0), [], []
    folder = Path(root)/'dataset'
    (folder/'images/val').mkdir(parents=True, exist_ok=True)
    for i in range(IMAGES):
        picture = Image.new('RGB', (320, 240), (205-8*i, 214, 222))
        for _ in range(3+i % 3):
            x, y, w, h = dice.randrange(0, 200), dice.randrange(0, 140), dice.randrange(50, 110), dice.randrange(40, 95)
            category = dice.randrange(len(classes))
            ImageDraw.Draw(picture).rectangle([x, y, x+w, y+h], fill=tuple(dice.randrange(60, 230) for _ in 'rgb'))
            annotations.append(
                dict(id=len(annotations)+1, image_id=100+i, category_id=category+1, bbox=[x, y, w, h], area=w*h,
                     iscrowd=0))
        picture.save(folder/f'images/val/{100+i:012d}.jpg')
        images.append(dict(id=100+i, file_name=f'{100+i:012d}.jpg', width=320, height=240))
    (folder/'annotations').mkdir(exist_ok=True)
    categories = [dict(id=i+1, name=name) for i, name in enumerate(classes)]
    (folder/'annotations/instances_val.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    def facts(split, count, boxes, crowd):
        return dict(split=f'{split}2017', requested=count, available=count+5, images=count, backgrounds=2,
                    annotations=boxes+crowd, boxes=boxes, clipped=1, repeated=0,
                    skipped={'unknown image': dict(count=0, first_ids=[]), 'crowd': dict(count=crowd, first_ids=[7])},
                    faults={}, instances=[])
    (folder/'provenance.json').write_text(
        json.dumps(
            dict(schema_version=1,
                 request=dict(coco_root='data/coco', train_split='train2017', val_split='val2017', train_max_images=288,
                              val_max_images=IMAGES, seed=0), fingerprint='cd'*32,
                 selection=dict(train='first by sha256 of "seed:id"', val='first by id', seed=0),
                 sources={key: dict(file=f'instances_{key}2017.json', bytes=123456, mtime_ns=0, sha256='ef'*32)
                          for key in ('train', 'val')},
                 splits=dict(train=facts('train', 288, 2110, 12), val=facts('val', IMAGES, len(annotations), 0)),
                 classes=[dict(index=i, category_id=i+1, name=name) for i, name in enumerate(classes)], warnings=[])))
    return annotations


def write_evaluation(root, rung, head, share, classes, truth):
    "Scores, classes and detections of one state; returns its rungs for the summary."
    dice = random.Random(f'{rung}{head}')
    folder = Path(root)/'evaluation'
    folder.mkdir(exist_ok=True)
    ap = FP*share*(1 if head == 'one2one' else 1.02)
    coco = dict(AP=ap, AP50=ap*1.5, AP75=ap*1.08, APs=ap*.4, APm=ap*.9, APl=ap*1.4)
    ultralytics = dict(AP=ap*1.004, AP50=ap*1.5, AP75=ap*1.08)
    per_class = []
    for i, name in enumerate(classes):
        mine = [t for t in truth if t['category_id'] == i+1]
        score = min(1., max(0., (.5-.06*i)*share*dice.uniform(.75, 1.2))) if mine else None
        per_class.append(
            dict(category_id=i+1, name=name, instances=len(mine), images=len({t['image_id'] for t in mine}), AP=score,
                 AP50=score and min(1., score*1.4)))
    data = dict(rung=rung, head=head, images=IMAGES, pycocotools=coco, ultralytics_val=ultralytics, per_class=per_class)
    (folder/f'{rung}-{head}.json').write_text(json.dumps(data))
    kept = [t for t in truth if dice.random() < .25+.7*share]
    found = [
        dict(image_id=t['image_id'], category_id=t['category_id'],
             bbox=[t['bbox'][0]+2, t['bbox'][1]-2, *t['bbox'][2:]], score=round(dice.uniform(.3, .95), 3))
        for t in kept]
    (folder/f'{rung}-{head}-detections.json').write_text(json.dumps(found))
    return [Rung(rung=rung, head=head, metrics_source=source, images=IMAGES, **values) for source,
            values in (('pycocotools', coco), ('ultralytics_val', ultralytics))]


def _layer(name):
    "A layer whose weights gather on the grid during training."
    dice = random.Random(name)
    before = [max(-7., min(7., dice.gauss(0, 2.2))) for _ in range(3000)]
    after = [w+.25*(round(w)-w)+dice.gauss(0, .12) for w in before]
    edges = [round(-8+.1*i, 1) for i in range(161)]

    def histogram(values):
        counts = [0]*(len(edges)-1)
        for v in values: counts[min(len(counts)-1, max(0, int((v+8)/.1)))] += 1
        return dict(edges=edges, counts=counts)

    def levels(values): return [sum(round(v) == k for v in values) for k in range(-7, 8)]
    return dict(name=name, kind='conv', bits=4, before=histogram(before), after=histogram(after), scale=.021,
                levels=list(range(-7, 8)), level_counts_before=levels(before), level_counts=levels(after))


# What dynamics.py reads. A layer is (module path, kind, count of weights).

def fake_layers():
    "The 83 layers that a deployed YOLOv10n has for boxes and classes, with their sizes."
    def conv(name, i, o, k=3): return (f'model.{name}', 'conv' if k > 1 else 'pointwise', i*o*k*k)
    def depth(name, c, k=3): return (f'model.{name}', 'depthwise', c*k*k)
    def c2f(n, i, o, parts):
        return [conv(f'{n}.cv1.conv', i, o, 1), conv(f'{n}.cv2.conv', o*(2+parts)//2, o, 1),
                *(conv(f'{n}.m.{m}.cv{c}.conv', o//2, o//2) for m in range(parts) for c in (1, 2))]
    def down(n, i, o): return [conv(f'{n}.cv1.conv', i, o, 1), depth(f'{n}.cv2.conv', o)]
    body = [conv('0.conv', 3, 16), conv('1.conv', 16, 32), *c2f(2, 32, 32, 1), conv('3.conv', 32, 64),
            *c2f(4, 64, 64, 2), *down(5, 64, 128), *c2f(6, 128, 128, 2), *down(7, 128, 256), *c2f(8, 256, 256, 1),
            conv('9.cv1.conv', 256, 128, 1), conv('9.cv2.conv', 512, 256, 1), conv('10.cv1.conv', 256, 256, 1),
            conv('10.cv2.conv', 256, 256, 1), conv('10.attn.qkv.conv', 128, 256, 1),
            conv('10.attn.proj.conv', 128, 128, 1), depth('10.attn.pe.conv', 128), conv('10.ffn.0.conv', 128, 256, 1),
            conv('10.ffn.1.conv', 256, 128, 1), *c2f(13, 384, 128, 1), *c2f(16, 192, 64, 1), conv('17.conv', 64, 64),
            *c2f(19, 192, 128, 1), *down(20, 128, 128), conv('22.cv1.conv', 384, 256, 1),
            conv('22.cv2.conv', 384, 256, 1), depth('22.m.0.cv1.0.conv', 128), conv('22.m.0.cv1.1.conv', 128, 256, 1),
            depth('22.m.0.cv1.2.conv.conv', 256, 7), depth('22.m.0.cv1.2.conv1.conv', 256),
            conv('22.m.0.cv1.3.conv', 256, 128, 1), depth('22.m.0.cv1.4.conv', 128)]
    head = [layer for i,
            c in enumerate((64, 128, 256))
            for layer in (conv(f'23.one2one_cv2.{i}.0.conv', c, 64), conv(f'23.one2one_cv2.{i}.1.conv', 64, 64),
                          conv(f'23.one2one_cv2.{i}.2', 64, 64, 1), depth(f'23.one2one_cv3.{i}.0.0.conv', c),
                          conv(f'23.one2one_cv3.{i}.0.1.conv', c, 80, 1), depth(f'23.one2one_cv3.{i}.1.0.conv', 80),
                          conv(f'23.one2one_cv3.{i}.1.1.conv', 80, 80, 1), conv(f'23.one2one_cv3.{i}.2', 80, 80, 1))]
    return body + head


def _table(root, name, rows):
    Path(root).mkdir(parents=True, exist_ok=True)
    (Path(root)/name).write_text(
        '\n'.join([','.join(rows[0])]
                  + [','.join('' if v is None else f'{v:.6g}' if isinstance(v, float) else str(v) for v in r.values())
                     for r in rows]) + '\n')


# share that oscillates in the long run
def _unrest(name, kind): return random.Random(name).uniform(.2, 1.)*dict(conv=.25, depthwise=.75, pointwise=.35)[kind]


def write_oscillation(root, layers, epochs, freeze=False):
    "Oscillation that sets in during the first epochs, strongest in depth-wise layers; with `freeze` it ends in the second half."
    rows = []
    for epoch in range(epochs+1):
        for name, kind, weights in layers:
            dice, top = random.Random(f'{name}{epoch}'), _unrest(name, kind)
            share = top*(1-math.exp(-epoch/max(1., epochs/4)))*dice.uniform(.9, 1.1)
            frozen = share*max(0., 2*epoch/epochs-1)*.9 if freeze and epoch else 0.
            share -= frozen
            log_step = (top-.25)*.7*epoch/max(1, epochs) + dice.gauss(0, .01)*(epoch > 0)
            rows.append(
                dict(epoch=epoch, layer=name, kind=kind, weights=weights, changed=.08*share, oscillating=share,
                     frequency=.03*share, near=.2+.5*share, frozen=frozen, scale=.02*(1+top)*2**log_step,
                     scale_drift=abs(log_step),
                     bn_kl=None if name.count('.') > 2 and name[-1].isdigit()
                     else .002*10**(2.5*share*dice.uniform(.8, 1.2)), dampening=None))
    _table(root, 'oscillation.csv', rows)
    (Path(root)/'oscillation.json').write_text(json.dumps(_histories(layers, rows[-len(layers):], epochs)))


def _histories(layers, last, epochs):
    edges = [round(-.5+.02*i, 2) for i in range(51)]
    def counts(name, weights, share):
        dice, middle = random.Random(name), [(a+b)/2 for a, b in zip(edges, edges[1:])]
        return [round(weights/50*((1-share) + share*6*math.exp(-((.5-abs(c))/.06)**2))*dice.uniform(.9, 1.1))
                for c in middle]
    shapes = [
        dict(layer=name, kind=kind, start=counts(name, weights, 0.), end=counts(name, weights, row['oscillating']))
        for (name, kind, weights), row in zip(layers, last)]
    restless = max(last, key=lambda row: row['oscillating'])
    trajectory = dict(layer=restless['layer'], kind=restless['kind'], epoch=epochs, first_step=18*(epochs-1),
                      interval=1, weights=[_way(i) for i in range(8)])
    return dict(format_version=1, momentum=.01, threshold=.005, interval=1, near=.1,
                distance=dict(edges=edges, layers=shapes), trajectory=trajectory if epochs else None)


def _way(number, looks=72):
    "A latent weight that the gradient drives to a threshold from both sides."
    dice, level = random.Random(number), random.Random(number).choice((-3, -1, 0, 2))
    position, way = level+.5+dice.uniform(-.01, .01), []
    for _ in range(looks):
        way.append(round(position, 5))
        position += dice.uniform(.002, .012)*(1 if position < level+.5 else -1) + dice.gauss(0, .001)
    return dict(index=37*number+5, frequency=round(.4-.03*number, 3), position=way, integer=[round(p) for p in way])


def write_batchnorm(root, layers):
    "Statistics that re-estimation brings close to the true ones, except in one layer."
    rows = []
    for name, kind, _ in layers:
        if name[-1].isdigit(): continue  # the last layers of the head have no batch norm
        before = .002*10**(3*_unrest(name, kind))
        rows.append(
            dict(layer=name.removesuffix('conv')+'bn', kind=kind, channels=64, kl_before=before,
                 kl_after=before*random.Random(name).uniform(.03, .3)))
    rows[-1]['kl_after'] = 1.4*rows[-1]['kl_before']
    _table(root, 'batchnorm.csv', rows)


def write_sensitivity(root, layers):
    "Early layers cost most; the three best for their bytes are kept."
    rows, total = [], sum(weights for *_, weights in layers)
    def row(part, group, kind, weights, drop):
        return dict(part=part, group=group, kind=kind, weights=weights, bytes=weights//2, ap_alone=FP-drop,
                    loss_alone=4+9*drop, ap_drop_alone=drop, loss_rise_alone=9*drop, ap_spared=.026+.4*drop,
                    loss_spared=7-3*drop, ap_gain_spared=.4*drop, loss_fall_spared=3*drop)
    for i, (name, kind, weights) in enumerate(layers):
        rows.append(row(name, 'layer', kind, weights, .056*math.exp(-i/6)*random.Random(name).uniform(.5, 1.) - .001))
    rows.append(row('backbone', 'region', '', total//2, .27))
    _table(root, 'sensitivity.csv', rows)
    best = sorted(rows[:-1], key=lambda r: -r['ap_drop_alone']/r['bytes'])
    kept = best[:3]
    trade = [
        dict(layers=n, bytes=sum(r['bytes'] for r in best[:n]),
             average_bits=4+8*sum(r['bytes'] for r in best[:n])/total, ap=.026+.2*(1-math.exp(-n/2.5)),
             loss=7-3*(1-math.exp(-n/2.5))) for n in range(min(9, len(best)+1))]
    (Path(root)/'keep-layers.json').write_text(
        json.dumps(
            dict(format_version=1, bits=8, layers=[r['part'] for r in kept], bytes=sum(r['bytes'] for r in kept),
                 budget=30000, measured=None, trade=trade)))
