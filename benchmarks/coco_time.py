"""Time and peak memory of the COCO view against `ultralytics.data.converter.convert_coco` plus a link an image, in turns, on annotation files of the
shape of train2017: 118,287 images, 860,001 boxes with polygons, about 450 MB. Every label file is compared.

    python benchmarks/coco_time.py [--shares 0.01 0.1 1] [--pairs 3] [--folder DIR]
"""
import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from common import emit, spread

IMAGES, BOXES, CROWDS, BACKGROUNDS = 118_287, 860_001, 10_498, 1_021  # of instances_train2017.json
SIDES = [(640, 480), (640, 427), (480, 640), (640, 640), (500, 375), (427, 640), (612, 612), (375, 500)]
LINKS_A_FILE = 30_000  # a file system allows so many names for one file


def polygons(rng, count):
    "Outlines as text, as COCO writes them; about 400 characters each, some of several parts."
    def ring(points): return '[' + ','.join(f'{v:.5g}' for v in rng.uniform(0, 600, 2*points)) + ']'
    return ['[' + ','.join(ring(max(3, int(rng.lognormal(2.95, .75)))) for _ in range(1 + (rng.random() < .1))) + ']'
            for _ in range(count)]


def write_annotations(file, images, boxes, categories, rng):
    "An instances file in COCO's own order of keys, streamed."
    sizes = [SIDES[i % len(SIDES)] for i in range(images)]
    outlines = polygons(rng, 5000)
    backgrounds = round(images*BACKGROUNDS/IMAGES)
    owner = np.r_[np.arange(images-backgrounds), rng.integers(0, images-backgrounds, boxes-(images-backgrounds))]
    rng.shuffle(owner)
    side = np.array(sizes, float)[owner]
    start = (rng.random((boxes, 2))*side*.8).round(2)
    extent = np.maximum(1, (rng.random((boxes, 2))**2*(side-start))).round(2)
    crowd, category, pick = rng.random(boxes) < CROWDS/BOXES, rng.integers(
        0, len(categories), boxes), rng.integers(0, len(outlines), boxes)
    with open(file, 'w') as out:
        out.write('{"info": {"description": "COCO 2017 Dataset"},"licenses": [],"images": [')
        out.write(',\n'.join(f'{{"license": 3,"file_name": "{i+1:012}.jpg","coco_url": "http://images.cocodataset.org/train2017/{i+1:012}.jpg","height": {h},"width": {w},'
                             f'"date_captured": "2013-11-14 11:18:45","flickr_url": "http://farm9.staticflickr.com/8186/{i:010}_93c4a8a0c5_z.jpg","id": {i+1}}}' for i, (w, h) in enumerate(sizes)))
        out.write('],"annotations": [')
        for k in range(boxes):
            outline = (
                f'{{"counts": [272,2,4,4,4,4,2,9,1,2,16,43,143,24,5,8],"size": [{int(side[k, 1])},{int(side[k, 0])}]}}'
                if crowd[k] else outlines[pick[k]])
            (x, y), (w, h) = start[k], extent[k]
            out.write(f'{"," if k else ""}{{"segmentation": {outline},"area": {w*h/2:.4f},"iscrowd": '
                      f'{int(crowd[k])},"image_id": {owner[k]+1},"bbox": [{x:g},{y:g},{w:g},{h:g}],"category_id": '
                      f'{categories[category[k]]},"id": {k+1}}}')
        out.write(
            '],"categories": ' + json.dumps(
                [dict(supercategory='thing', id=c, name=f'class {c}') for c in categories]) + '}')


def write_images(folder, images):
    "Small JPEG files of the sizes told, many names for each."
    folder.mkdir(parents=True)
    for i in range(images):
        w, h = SIDES[i % len(SIDES)]
        source = folder.parent/f'{w}x{h}-{i//len(SIDES)//LINKS_A_FILE}.jpg'
        if not source.exists(): Image.new('RGB', (w, h)).save(source, quality=5)
        os.link(source, folder/f'{i+1:012}.jpg')


def make(root, share):
    "A COCO root of a share of train2017's size, and a val split of 20 images."
    from ultralytics.data.converter import coco91_to_coco80_class
    categories = [i+1 for i, c in enumerate(coco91_to_coco80_class()) if c is not None]
    rng = np.random.default_rng(0)
    (root/'annotations').mkdir(parents=True)
    for name, images, boxes in (('train2017', round(IMAGES*share), round(BOXES*share)), ('val2017', 20, 150)):
        write_annotations(root/'annotations'/f'instances_{name}.json', images, boxes, categories, rng)
        write_images(root/name, images)


def ours(root, out):

    from yolov10_qat.data.view import build_view
    def work(): build_view(root, out)
    return work


def again(root, out):

    from yolov10_qat.data.view import build_view
    return lambda: build_view(root, out)


def theirs(root, out):
    from ultralytics.data.converter import convert_coco
    def work():
        convert_coco(root/'annotations', out)
        for name in ('train2017', 'val2017'):
            folder = out/'images'/name
            folder.mkdir(parents=True)
            lines = []
            for image in sorted(os.listdir(root/name)):
                os.symlink(root/name/image, folder/image)
                lines.append(f'./images/{name}/{image}\n')
            (out/f'{name}.txt').write_text(''.join(lines))
    return work


def child(which, root, out):
    "Do it once; seconds without imports, and the peak memory of the process and of the largest that it started (which shares pages with it). `ru_maxrss` of the process itself would be its parent's where that was larger."
    work = dict(ours=ours, theirs=theirs, again=again)[which](root, out)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    peaks = int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]), resource.getrusage(
        resource.RUSAGE_CHILDREN).ru_maxrss
    print('RESULT', json.dumps(dict(seconds=seconds, mib=max(peaks)/1024, children_mib=peaks[1]/1024)))


def forget(root):
    "The annotation files in memory, and of the runs before nothing (where root measures): a million files in the kernel's tables slow every new one down, on both sides."
    os.sync()
    try: Path('/proc/sys/vm/drop_caches').write_text('2')
    except OSError: pass
    for file in (root/'annotations').iterdir(): file.read_bytes()


def measured(which, root, out):
    "`child` in a process of its own. Nothing is removed between the runs: for minutes after 100,000 files went, some file systems are slow to make new ones."
    forget(root)
    done = subprocess.run([sys.executable, __file__, '--child', which, str(root), str(out)], capture_output=True,
                          text=True)
    if done.returncode: sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.rpartition('RESULT ')[2])


def rows(file): return file.read_text().splitlines() if file.exists() else None


def differences(mine, other, images):
    "How label files differ, and how many do."
    found = Counter()
    for i in range(images):
        a, b = rows(mine/'labels'/'train'/f'{i+1:012}.txt'), rows(other/'labels'/'train2017'/f'{i+1:012}.txt')
        if b is None: found['empty here, missing there (no boxes)' if a == [] else 'missing there'] += 1; continue
        rounded = ['%s %g %g %g %g' % (row.split()[0], *map(float, row.split()[1:])) for row in a]
        if rounded == b: found['equal'] += 1
        elif sorted(rounded) == sorted(b): found['the same rows, by annotation id'] += 1
        else:
            pairs = [(np.array(x.split(), float), np.array(y.split(), float)) for x, y in zip(sorted(a), sorted(b))]
            found[
                'equal to the six digits written there' if len(a) == len(b) and all(
                    np.allclose(x, y, rtol=6e-6, atol=1e-8) for x, y in pairs) else 'other'] += 1
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shares', type=float, nargs='+', default=[.01, .1, 1.])
    parser.add_argument('--pairs', type=int, default=3)
    parser.add_argument('--folder', type=Path, help='keeps what was generated for the next time')
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args.child[0], *map(Path, args.child[1:]))
    with tempfile.TemporaryDirectory() as temporary:
        for share in args.shares:
            folder = (args.folder or Path(temporary)).resolve()/f'{share:g}'
            root, views = folder/'coco', folder/'views'
            if not (root/'annotations').exists(): make(root, share)
            shutil.rmtree(views, ignore_errors=True)  # of a run that was stopped
            sides = [('ours', 'theirs'), ('theirs', 'ours')]
            rounds = [
                {side: measured(side, root, views/f'{side}{i}') for side in sides[i % 2]} for i in range(args.pairs)]
            pairs = [(r['ours'], r['theirs']) for r in rounds]
            found = differences(views/'ours0', views/'theirs0', round(IMAGES*share))
            second = measured('again', root, views/'ours0')['seconds']
            for name, values in zip(('ours', 'convert_coco'), zip(*pairs)):
                print(f"{share:6.0%} {name:13} {spread([v['seconds'] for v in values], 's')}; peak "
                      f"{max(v['mib'] for v in values):,.0f} MiB")
            print(f"{share:6.0%} times faster  {spread([b['seconds']/a['seconds'] for a, b in pairs])}; memory "
                  f"{max(a['mib'] for a, b in pairs)/min(b['mib'] for a, b in pairs):.2f} of theirs; a second time "
                  f"{second:.2f} s; labels: {dict(found)}")
            emit('coco_view', share=share, seconds=[a['seconds'] for a, _ in pairs], seconds_alternative=[b['seconds'] for _, b in pairs],
                 mib=[a['mib'] for a, _ in pairs], mib_alternative=[b['mib'] for _, b in pairs], second_time=second, labels=found)
        for share in args.shares: shutil.rmtree((args.folder or Path(temporary)).resolve()/f'{share:g}'/'views')


if __name__ == '__main__': main()
