"Dataset views: bad input, what is skipped, what Ultralytics and pycocotools make of a view, and agreement with Ultralytics' converter."
import codecs
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from places import SHARED
from yolov10_qat.data import annotations
from yolov10_qat.data.annotations import (
    Annotation,
    DataError,
    ImageRecord,
    decode_instances,
    decode_windows,
    read_chunks,
    read_source,
    to_table,
)
from yolov10_qat.data.images import select_images
from yolov10_qat.data.labels import FINEST, label_texts, share_rows, to_labels
from yolov10_qat.data.view import build_view, load_view

MINI = SHARED/'coco-mini'
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason='../shared/coco-mini is not here')
W, H = 40, 30

def make_coco(root, n=3, subfolder='', suffix='.jpg'):
    "A COCO root with `n` training and `n` validation images, a box in each."
    for split in ('train2017', 'val2017'):
        images = [dict(id=i, file_name=f'{subfolder}{i}{suffix}', width=W, height=H) for i in range(1, n+1)]
        for image in images:
            path = root/split/image['file_name']
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (W, H), (image['id'] % 256, 99, 9)).save(path)
        boxes = [dict(id=i, image_id=i, category_id=7, bbox=[4., 6., 10., 8.], area=80., iscrowd=0)
                 for i in range(1, n+1)]
        write(root, split,
              dict(images=images, annotations=boxes, categories=[dict(id=7, name='train'), dict(id=20, name='sheep')]))
    return root

def file_of(root, split='train2017'): return root/'annotations'/f'instances_{split}.json'
def read(root, split='train2017'): return json.loads(file_of(root, split).read_text())

def write(root, split, content):
    file_of(root).parent.mkdir(exist_ok=True)
    file_of(root, split).write_text(json.dumps(content))

def tree(root):
    "Every file below a folder with its digest, or where it points."
    return {str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(Path(root).rglob('*')) if not p.is_dir()}

def content_of(view): return {name: content for name, content in tree(view.root).items() if name != 'provenance.json'}

# --- bad input -------------------------------------------------------------------------------------------------------------------------

def edited(change, split='train2017'):
    "A damage done to the parsed annotation file."
    def damage(root):
        content = read(root, split)
        change(content)
        write(root, split, content)
    return damage

def setting(section, field, value, split='train2017'):
    return edited(lambda c: c[section][0].__setitem__(field, value), split)
def text(change): return lambda root: file_of(root).write_bytes(change(file_of(root).read_bytes()))
def lacking(key): return edited(lambda c: c.pop(key))

BAD = {
    'no root':            (lambda r: r.rename(r.with_name('coca')), FileNotFoundError,
                           r"no COCO root .*coco \(did you mean 'coca'\?\)"),
    'no split':           (lambda r: (r/'train2017').rename(r/'train2071'), FileNotFoundError,
                           r"no image folder .*train2017 \(did you mean 'train2071'\?\)"),
    'no annotation file': (lambda r: file_of(r).rename(file_of(r).with_name('instances_train.json')), FileNotFoundError,
                           r"no annotation file .*did you mean 'instances_train.json'"),
    'not JSON':           (text(lambda b: b'hello'), DataError, 'instances_train2017.json .*not JSON'),
    'not UTF-8':          (text(lambda b: b.replace(b'"train"', b'"\xff"')), DataError, 'not JSON'),
    'empty file':         (text(lambda b: b''), DataError, r'\(0 bytes\) is not JSON, or is cut off'),
    'truncated':          (text(lambda b: b[:-30]), DataError, 'cut off: input data was truncated'),
    'a list':             (text(lambda b: b'[]'), DataError, 'expected object, got array'),
    'no images key':      (lacking('images'), DataError, 'missing required field images'),
    'no annotations key': (lacking('annotations'), DataError, 'missing required field annotations'),
    'no categories key':  (lacking('categories'), DataError, 'missing required field categories'),
    'no images':          (edited(lambda c: c.update(images=[])), DataError,
                           'images is empty; the split needs at least one'),
    'no boxes':           (edited(lambda c: c.update(annotations=[])), DataError,
                           'no box left after filtering in 3 images'),
    'no categories':      (edited(lambda c: c.update(categories=[])), DataError, 'categories is empty'),
    'category twice':     (edited(lambda c: c['categories'].append(c['categories'][0])), DataError,
                           'categories has id 7 more than once'),
    'other categories':   (setting('categories', 'name', 'tram', 'val2017'), DataError,
                           r"differ: only instances_train2017.json has \[\(7, 'train'\)\]; only "
                           r"instances_val2017.json has \[\(7, 'tram'\)\]"),
    'id is a list':       (setting('images', 'id', [1]), DataError,
                           r'expected int, got array at images\[0\].id \(record with id \[1\], id = \[1\]\)'),
    'width is zero':      (setting('images', 'width', 0), DataError,
                           r'images\[0\].width \(record with id 1, width = 0\)'),
    'height is null':     (setting('images', 'height', None), DataError,
                           r'expected int, got null at images\[0\].height'),
    'box of three':       (setting('annotations', 'bbox', [1, 2, 3]), DataError,
                           r'array of length 4 at annotations\[0\].bbox \(record with id 1, bbox = \[1, 2, 3\]\)'),
    'box of five':        (setting('annotations', 'bbox', [1, 2, 3, 4, 5]), DataError, r'annotations\[0\].bbox'),
    'box is text':        (setting('annotations', 'bbox', '1 2 3 4'), DataError,
                           r'expected array, got str at annotations\[0\].bbox'),
    'no bbox':            (edited(lambda c: c['annotations'][1].pop('bbox')), DataError,
                           r'missing required field bbox at annotations\[1\] \(record with id 2\)'),
    'huge width':         (setting('images', 'width', 2**70), DataError, r'images\[0\].width'),
    'image id twice':     (setting('images', 'id', 2), DataError,
                           r"images 2 \('1.jpg'\) and 2 \('2.jpg'\) have the same id"),
    'file twice':         (setting('images', 'file_name', './2.jpg'), DataError, 'have the same file_name'),
    'label shared':       (setting('images', 'file_name', '2.png'), DataError,
                           r"1 \('2.png'\) and 2 \('2.jpg'\) have the same file_name"),
    'absolute name':      (setting('images', 'file_name', '/etc/passwd'), DataError,
                           "image 1 has file_name '/etc/passwd'; it must be a relative path"),
    'escaping name':      (setting('images', 'file_name', 'x/../../1.jpg'), DataError, 'stays inside the image folder'),
    'empty name':         (setting('images', 'file_name', ''), DataError, "file_name ''"),
    'name of two lines':  (setting('images', 'file_name', 'a\n/etc/passwd.jpg'), DataError, 'stays inside'),
    'missing image':      (lambda r: (r/'train2017/2.jpg').unlink(), DataError,
                           r'1 of 3 selected images cannot be used \(tolerated: 1 %\): 2.jpg \(missing\)'),
    'empty image':        (lambda r: (r/'train2017/2.jpg').write_bytes(b''), DataError, r'2.jpg \(unreadable\)'),
    'text as image':      (lambda r: (r/'train2017/2.jpg').write_text('no picture at all'), DataError,
                           r'2.jpg \(unreadable\)'),
    'folder as image':    (lambda r: ((r/'train2017/2.jpg').unlink(), (r/'train2017/2.jpg').mkdir()), DataError,
                           r'2.jpg \(unreadable\)'),
    'truncated image':    (lambda r: (r/'train2017/2.jpg').write_bytes((r/'train2017/2.jpg').read_bytes()[:-60]),
                           DataError, r'2.jpg \(unreadable\)'),
    'image of other size':(lambda r: Image.new('RGB', (H, W)).save(r/'train2017/2.jpg'), DataError,
                           r'2.jpg \(other size\)'),
    'tiny image':         (lambda r: Image.new('RGB', (9, 9)).save(r/'train2017/2.jpg'), DataError,
                           r'2.jpg \(too small\)'),
    'unknown category':   (setting('annotations', 'category_id', 8), DataError,
                           '1 annotations have a category_id that is not in categories .*the first has id 1'),}

@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_named_and_leaves_nothing(case, tmp_path):
    damage, error, message = BAD[case]
    root = make_coco(tmp_path/'coco')
    damage(root)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message) as caught: build_view(root, tmp_path/'view')
    assert '\n' not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before

def test_suffix_that_ultralytics_leaves_out(tmp_path):
    root = make_coco(tmp_path/'coco', suffix='.jfif')
    with pytest.raises(DataError,
                       match='3 train images have a suffix that Ultralytics does not read, the first is 1.jfif'):
        build_view(root, tmp_path/'view')
    assert os.listdir(tmp_path) == ['coco']

# --- what is skipped ---------------------------------------------------------------------------------------------------------------------

def test_skipped_annotations_are_counted_by_reason(tmp_path):
    root = make_coco(tmp_path/'coco', n=3)
    content = read(root)
    def add(id, box, **kw):
        content['annotations'].append(dict(id=id, image_id=1, category_id=7, bbox=box, area=1., iscrowd=0) | kw)
    add(10, [0., 0., 9., 9.], iscrowd=1)
    add(11, [0., float('nan'), 9., 9.])
    add(12, [0., 0., float('inf'), 9.])
    add(13, [None, 0., 9., 9.])
    add(14, [1., 1., 0., 5.])
    add(15, [1., 1., 5., -5.])
    add(16, [-9., 1., 5., 5.])
    add(17, [1., 30., 5., 5.])
    add(18, [35., 25., 10., 10.])
    add(19, [4., 6., 10., 8.])          # same box as annotation 1
    add(3, [1., 1., 2., 2.])            # id of another box
    add(18, [35., 25., 10., 10.])       # the same record again
    add(20, [1., 1., 2., 2.], image_id=99)
    write(root, 'train2017', content)
    view = build_view(root, tmp_path/'view')
    facts = view.provenance['splits']['train']
    assert {reason: entry['first_ids'] for reason, entry in facts['skipped'].items()} == {
        'unknown image': [20], 'unknown category': [], 'duplicate id': [18], 'not finite': [11, 12, 13], 'crowd': [10],
        'no size': [14, 15], 'outside the image': [16, 17]}
    assert (facts['clipped'], facts['repeated'], facts['boxes'], facts['annotations']) == (1, 1, 5, 11)
    rows = (view.root/'labels/train/1.txt').read_text().splitlines()
    assert rows == ['0 0.22500000 0.33333333 0.25000000 0.26666667', '0 0.05000000 0.06666667 0.05000000 0.06666667',
                    '0 0.93750000 0.91666667 0.12500000 0.16666667']
    assert len(view.warnings) == 8 and all(line.startswith('train2017: ') for line in view.warnings)
    # unknown image aside: 15 of the images, 5 boxes and one that is written once
    assert view.warnings[-1].startswith('train2017: 9 of 15 annotations (60%) are not learned from: '
                                        '1 duplicate id, 3 not finite, 1 crowd, 2 no size, 2 outside the image; crowd')
    written = json.loads(view.train_annotations.read_text())['annotations']
    assert [a['id'] for a in written] == list(range(1, 12))
    assert [a['image_id'] for a in written] == [1]*9 + [2, 3]

def test_one_bad_image_in_a_hundred_is_a_warning(tmp_path):
    root = make_coco(tmp_path/'coco', n=100)
    (root/'train2017/50.jpg').unlink()
    (root/'val2017/7.jpg').write_bytes(b'')
    view = build_view(root, tmp_path/'view')
    assert (view.train_images, view.val_images) == (99, 99)
    assert view.warnings == ['train2017: images left out: 1: 50.jpg (missing)',
                             'val2017: images left out: 1: 7.jpg (unreadable)']
    assert view.provenance['splits']['train']['faults'] == {'50.jpg': 'missing'}
    assert not (view.root/'labels/train/50.txt').exists()
    (root/'train2017/51.jpg').unlink()
    with pytest.raises(DataError, match='2 of 100'): build_view(root, tmp_path/'view2')

def test_a_view_without_a_bad_image_is_that_of_a_file_without_it(tmp_path):
    root = make_coco(tmp_path/'coco', n=100)
    content = read(root)
    # of the bad image, the first with a category that there is not
    content['annotations'] += [dict(content['annotations'][49], id=i, category_id=c) for i, c in ((200, 99), (201, 20))]
    # of another, with the id of one of the bad image
    content['annotations'].append(dict(content['annotations'][59], id=50))
    write(root, 'train2017', content)
    (root/'train2017/50.jpg').unlink()
    left_out = build_view(root, tmp_path/'left_out')
    for section, key in (('images', 'id'), ('annotations', 'image_id')):
        content[section] = [entry for entry in content[section] if entry[key] != 50]
    write(root, 'train2017', content)
    unlisted = build_view(root, tmp_path/'unlisted')
    assert left_out.fingerprint == unlisted.fingerprint
    assert content_of(left_out) == content_of(unlisted)
    first, second = (view.provenance['splits']['train'] for view in (left_out, unlisted))
    assert {k for k in first if first[k] != second[k]} == {'faults', 'available'}
    assert (view := load_view(left_out.root)).train_images == 99 and (
        view.root/'labels/train/60.txt').read_text().count('\n') == 1

def test_a_file_with_byte_order_mark_and_sparse_annotations_is_read(tmp_path):
    root = make_coco(tmp_path/'coco')
    content = read(root, 'val2017')
    for a in content['annotations']: del a['area'], a['iscrowd']
    file_of(root, 'val2017').write_text(json.dumps(content), encoding='utf-8-sig')
    view = build_view(root, tmp_path/'view')
    assert {(a['area'], a['iscrowd'])
            for a in json.loads(view.val_annotations.read_text())['annotations']} == {(80., 0)}

# --- reading in windows ------------------------------------------------------------------------------------------------------------------

def random_file(rng, odd):
    "Text of an instances file: any order of keys, any white space, names that look like JSON; `odd` ones need to be read whole."
    def space(): return ''.join(rng.choices(' \t\r\n', k=rng.choice([0, 0, 1, 3])))
    def text(value):
        if isinstance(value, dict):
            return '{' + ','.join(f'{space()}{json.dumps(k)}{space()}:{text(v)}{space()}' for k,
                                  v in rng.sample(list(value.items()), len(value))) + '}'
        if isinstance(value, list): return '[' + ','.join(f'{space()}{text(v)}{space()}' for v in value) + space() + ']'
        return json.dumps(value, ensure_ascii=rng.random() < .5)
    def name():
        return ''.join(rng.choices(['},{', '}]', '"', '\\', 'ä', ']', '{"annotations": [', 'NaN'], k=rng.randrange(4)))
    def annotation(i):
        record = dict(id=i, image_id=1, category_id=7, bbox=[rng.choice([1, 2.5, None]) for _ in range(4)],
                      segmentation=[[rng.random() for _ in range(6)]], caption=name())
        more = dict(iscrowd=rng.choice([0, 1, True]), area=rng.choice([None, 3., 4]),
                    **(dict(parts=[{'a': [{}]}, {}], score=float('nan')) if odd else {}))
        return record | {k: v for k, v in more.items() if rng.random() < .5}
    found = text(
        dict(info=dict(description=name()),
             images=[dict(id=i, file_name=f'{i}{name()}.jpg', width=W, height=H) for i in range(rng.randrange(5))],
             annotations=[annotation(i) for i in range(rng.randrange(9))], categories=[dict(id=7, name=name())]))
    return codecs.BOM_UTF8 * rng.randrange(2) + found.encode()

def columns(table):
    return [None if c is None else [bytes(v) if isinstance(v, msgspec.Raw) else repr(v) for v in c.tolist()]
            for c in msgspec.structs.astuple(table)]

@pytest.mark.parametrize('odd', [False, True])
def test_windows_of_any_size_give_what_the_whole_file_gives(odd, tmp_path, monkeypatch):
    rng, file, in_windows = random.Random(0), tmp_path/'a.json', 0
    for _k in range(300):
        data, segmented = random_file(rng, odd), rng.random() < .5
        file.write_bytes(data)
        monkeypatch.setattr(annotations, 'WINDOW', rng.randrange(1, 400))
        found, source = read_source(file, segmented)
        whole = decode_instances(data, file, segmented)
        assert (found.images, found.categories) == (whole.images, whole.categories), data
        assert columns(found.annotations) == columns(to_table(whole.annotations, segmented)), data
        assert (source['bytes'], source['sha256']) == (len(data), hashlib.sha256(data).hexdigest())
        with contextlib.suppress(msgspec.DecodeError): in_windows += bool(decode_windows(read_chunks(file), segmented))
    assert in_windows > (30 if odd else 150)

def test_a_file_cut_anywhere_is_told_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, 'WINDOW', 64)
    data, file = file_of(make_coco(tmp_path)).read_bytes(), tmp_path/'a.json'
    for end in range(0, len(data), 5):
        file.write_bytes(data[:end])
        with pytest.raises(DataError) as before: decode_instances(data[:end], file, False)
        with pytest.raises(DataError) as now: read_source(file, False)
        assert str(now.value) == str(before.value)

RECORDS = '[{"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}]'

@pytest.mark.parametrize('text,ids', [
    ('{"info": {"annotations": %s}, "images": [], "annotations": [], "categories": []}', []),
    ('{"images": [], "annotations": [], "categories": [], "info": {"annotations": %s}}', []),
    ('{"annotations": %s, "images": [], "annotations": [], "categories": []}', []),
    ('{"annotations": [], "images": [], "annotations": %s, "categories": []}', [5]),
    ('{"images": [], "annotation\\u0073": %s, "categories": []}', [5]),
])
def test_another_list_of_annotations_is_not_taken_for_the_one(text, ids, tmp_path):
    (tmp_path/'a.json').write_text(text % RECORDS)
    assert read_source(tmp_path/'a.json', False)[0].annotations.id_k.tolist() == ids

class SlowSha:
    "Takes its time, as on a processor that has no instructions for it."
    def update(self, chunk): time.sleep(.002)
    def hexdigest(self): return ''

@pytest.mark.parametrize('sha', [hashlib.sha256, SlowSha])
def test_windows_hold_neither_the_file_nor_its_polygons(sha, tmp_path, monkeypatch):
    root = make_coco(tmp_path, n=1)
    content = read(root)
    content['annotations'] = [content['annotations'][0] | dict(id=i, segmentation=[[.5]*500]) for i in range(4000)]
    write(root, 'train2017', content)
    monkeypatch.setattr(annotations, 'WINDOW', 1 << 16)
    monkeypatch.setattr(annotations, 'hashlib', SimpleNamespace(sha256=sha))
    tracemalloc.start()
    read_source(file_of(root), False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < file_of(root).stat().st_size/8

def test_annotations_before_images_give_the_same_view(tmp_path):
    root = make_coco(tmp_path/'coco')
    first = build_view(root, tmp_path/'one')
    write(root, 'train2017', dict(reversed(read(root).items())))
    second = build_view(root, tmp_path/'two')
    assert first.fingerprint == second.fingerprint
    assert content_of(first) == content_of(second)

def test_images_told_twice_are_those_told_last(tmp_path):
    root = make_coco(tmp_path/'coco')
    text = file_of(root).read_text()
    file_of(root).write_text(text[:-1] + ', "images": ' + json.dumps(read(root)['images'][:2]) + '}')
    view = build_view(root, tmp_path/'view')
    assert view.train_images == 2 and sorted(os.listdir(view.root/'images'/'train')) == ['1.jpg', '2.jpg']

# --- properties --------------------------------------------------------------------------------------------------------------------------

inside = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000), *[st.floats(0, 1)]*4)

@settings(max_examples=300, deadline=None)
@given(inside)
def test_a_box_is_recovered_from_its_label(sample):
    width, height, *u = sample
    x, y = u[0]*width, u[1]*height
    w, h = u[2]*(width-x), u[3]*(height-y)
    labels = to_labels(to_table([Annotation(1, 1, 7, (x, y, w, h))]), [ImageRecord(1, 'a.jpg', width, height)], [7])
    texts, _ = label_texts(labels, 1)
    if min(w, h) < FINEST: assert texts == [b'']
    else:
        cx, cy, bw, bh = np.array(texts[0].split()[1:], np.float32).astype(float)  # Ultralytics reads float32
        found = [(cx-bw/2)*width, (cy-bh/2)*height, bw*width, bh*height]
        np.testing.assert_allclose(found, [x, y, w, h], atol=.002, rtol=0)

@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=32)]*4), max_size=8))
def test_any_finite_box_gives_a_legal_label_or_none(boxes):
    labels = to_labels(to_table([Annotation(k, 1, 7, box) for k, box in enumerate(boxes)]),
                       [ImageRecord(1, 'a.jpg', W, H)], [7])
    assert len(labels.class_k) + sum(map(len, labels.skipped.values())) == len(boxes)
    assert ((labels.boxes_k4 >= 0) & (labels.boxes_k4 <= 1)).all() and (labels.boxes_k4[:, 2:] > 0).all()

@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[
                st.one_of(st.floats(0, 1), st.integers(0, 64_000).map(lambda n: n/64_000),
                          st.integers(0, 2**12).map(lambda n: n/2**12))]*4), min_size=1))
def test_shares_are_written_as_percent_writes_them(rows):
    assert share_rows(np.array(rows)) == [b' %.8f %.8f %.8f %.8f' % row for row in rows]

@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(0, 9), st.data())
def test_a_smaller_subset_is_part_of_a_larger(ids, seed, data):
    images = [ImageRecord(i, f'{i}.jpg', W, H) for i in ids]
    few, many = sorted(data.draw(st.tuples(*[st.integers(1, len(ids))]*2)))
    for s in (seed, None):
        assert {i.id for i in select_images(images, few, s)} <= {i.id for i in select_images(images[::-1], many, s)}

# --- a view as a whole -------------------------------------------------------------------------------------------------------------------

def test_views_are_reproducible_reused_and_movable(tmp_path):
    root = make_coco(tmp_path/'coco', n=9, subfolder='a b/')
    first = build_view(root, tmp_path/'one', train_max_images=5, seed=3)
    shuffled = read(root)
    for key in ('images', 'annotations', 'categories'): shuffled[key].reverse()
    write(root, 'train2017', shuffled)
    second = build_view(root, tmp_path/'two', train_max_images=5, seed=3)
    assert first.fingerprint == second.fingerprint
    assert content_of(first) == content_of(second)
    with pytest.raises(DataError, match='instances_train2017.json has changed since'):
        build_view(root, tmp_path/'one', train_max_images=5, seed=3)
    os.utime(file_of(root, 'val2017'))  # same bytes, another time: still the same source
    assert build_view(root, tmp_path/'two', train_max_images=5, seed=3) == second
    (tmp_path/'two').rename(tmp_path/'moved')
    moved = load_view(tmp_path/'moved')
    assert moved.fingerprint == second.fingerprint and len(ultralytics_labels(moved.dataset_yaml, 'train')) == 5

@pytest.mark.parametrize(
    'damage,message',
    [(lambda v: (v/'provenance.json').unlink(), 'no finished dataset view'),
     (lambda v: (v/'provenance.json').write_text('{"a": '), 'provenance.json is damaged'),
     (lambda v: (v/'provenance.json').write_text('{}'), 'schema_version None, expected 1'),
     (lambda v: (v/'train.txt').write_text('./images/train/1.jpg\n'), 'train.txt was removed or changed'),
     (lambda v: (v/'annotations/instances_val.json').unlink(), 'instances_val.json was removed'),
     (lambda v: (v/'labels/val/1.txt').unlink(), '1 files of val are gone, the first is labels/val/1.txt'),
     (lambda v: (v.parent/'coco/val2017/2.jpg').unlink(),
      '1 files of val are gone, the first is images/val/2.jpg; restore .*coco'),])
def test_a_view_that_is_not_whole_is_refused(damage, message, tmp_path):
    root = make_coco(tmp_path/'coco')
    view = build_view(root, tmp_path/'view')
    damage(view.root)
    with pytest.raises((DataError, FileNotFoundError), match=message): load_view(view.root)
    with pytest.raises((DataError, FileNotFoundError), match=message): build_view(root, view.root)

def test_a_view_outlives_its_source_when_its_links_became_files(tmp_path):
    root = make_coco(tmp_path/'coco')
    view = build_view(root, tmp_path/'view')
    for key in ('train', 'val'):
        for link in view.images(key):
            data = link.read_bytes()
            link.unlink()
            link.write_bytes(data)
    shutil.rmtree(root)
    assert load_view(view.root) == view

def test_a_source_that_is_a_link_to_nothing_is_noticed(tmp_path):
    root = make_coco(tmp_path/'coco')
    (root/'train2017').rename(tmp_path/'elsewhere')
    (root/'train2017').mkdir()
    for image in (tmp_path/'elsewhere').iterdir(): (root/'train2017'/image.name).symlink_to(image)
    view = build_view(root, tmp_path/'view')
    assert load_view(view.root) == view
    (tmp_path/'elsewhere'/'2.jpg').unlink()
    with pytest.raises(DataError, match='1 files of train are gone, the first is images/train/2.jpg'):
        load_view(view.root)

def test_a_folder_with_other_things_is_left_alone(tmp_path):
    root = make_coco(tmp_path/'coco')
    (tmp_path/'mine').mkdir()
    assert build_view(root, tmp_path/'mine').train_images == 3  # empty is fine
    (tmp_path/'full').mkdir()
    (tmp_path/'full/thesis.txt').write_text('years of work')
    with pytest.raises(FileNotFoundError, match='no finished dataset view'): build_view(root, tmp_path/'full')
    assert (tmp_path/'full/thesis.txt').read_text() == 'years of work'
    (tmp_path/'file').write_text('x')
    with pytest.raises((OSError, ValueError)): build_view(root, tmp_path/'file')

def test_an_interrupted_build_leaves_nothing(tmp_path):
    root = make_coco(tmp_path/'coco')
    def stop(done, total, what):
        if what == 'writing val' and done: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): build_view(root, tmp_path/'view', progress=stop)
    assert os.listdir(tmp_path) == ['coco']

def test_progress_ends_at_its_total(tmp_path):
    seen = []
    build_view(make_coco(tmp_path/'coco'), tmp_path/'view', progress=lambda *args: seen.append(args))
    last = {what: (done, total) for done, total, what in seen}
    assert last == {'reading instances_train2017.json': (1, 1), 'checking train2017': (3, 3),
                    'reading instances_val2017.json': (1, 1), 'checking val2017': (3, 3), 'writing train': (3, 3),
                    'writing val': (3, 3)}

def test_the_module_loads_without_torch():
    code = ("import sys, yolov10_qat.data.view; sys.exit(any(m in sys.modules for m in ('torch', 'ultralytics', "
            "'matplotlib', 'pandas')))")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

# --- what others make of it --------------------------------------------------------------------------------------------------------------

def ultralytics_labels(yaml_file, key, augment=True):
    "What Ultralytics' own dataset class reads: file -> rows of class cx cy w h."
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset
    data = check_det_dataset(str(yaml_file))
    dataset = YOLODataset(img_path=data[key], data=data, task='detect', augment=augment, imgsz=64)
    return {label['im_file']: np.hstack([label['cls'], label['bboxes']]) for label in dataset.labels}

@pytest.mark.parametrize('subfolder', ['', 'deep/er/', 'images/', 'labels/'])
def test_ultralytics_finds_all_labels_and_touches_nothing_else(subfolder, tmp_path):
    place = tmp_path/'images'/'my data'  # a trap of its own: /images/ above the view
    place.mkdir(parents=True)
    root = make_coco(place/'coco', subfolder=subfolder)
    # Ultralytics rewrites such a file
    with open(root/'train2017'/f'{subfolder}2.jpg', 'ab') as f: f.write(b'trailing bytes')
    before = tree(root)
    view = build_view(root, place/'view')
    for key in ('train', 'val'):
        found = ultralytics_labels(view.dataset_yaml, key)
        assert sorted(found) == sorted(map(str, view.images(key)))
        for rows in found.values(): np.testing.assert_allclose(rows, [[0, .225, 1/3, .25, 8/30]], atol=1e-6)
    assert tree(root) == before
    assert len(list(view.root.rglob('*.cache'))) == 2
    assert load_view(view.root) == view  # caches and the rewritten image do not make it less whole

def test_a_linked_folder_would_yield_no_labels(tmp_path):
    "The trap that `build_view` avoids; when this fails, Ultralytics has changed and links a folder would do."
    root = make_coco(tmp_path/'coco')
    view = build_view(root, tmp_path/'view')
    trap = tmp_path/'trap'
    for key in ('train', 'val'):
        (trap/'images').mkdir(parents=True, exist_ok=True)
        (trap/'images'/key).symlink_to(root/f'{key}2017')
        (trap/'labels'/key).mkdir(parents=True)
        for label in (view.root/'labels'/key).iterdir(): (trap/'labels'/key/label.name).write_text(label.read_text())
    (trap/'dataset.yaml').write_text('train: images/train\nval: images/val\nnames: [train, sheep]\n')
    assert sum(map(len, ultralytics_labels(trap/'dataset.yaml', 'val', augment=False).values())) == 0

@needs_mini
def test_labels_agree_with_ultralytics_converter(tmp_path):
    from ultralytics.data.converter import convert_coco
    with contextlib.redirect_stdout(io.StringIO()): convert_coco(str(MINI/'annotations'), str(tmp_path/'oracle'))
    view = build_view(MINI, tmp_path/'view')
    def rows(path):
        return np.array(sorted([float(v) for v in line.split()] for line in path.read_text().splitlines())
                        if path.exists() else []).reshape(-1, 5)
    for key in ('train', 'val'):
        for image in view.images(key):
            ours, theirs = rows(view.root/'labels'/key/f'{image.stem}.txt'), rows(
                tmp_path/'oracle'/'labels'/f'{key}2017'/f'{image.stem}.txt')
            # the converter keeps six digits
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=image.name)

@needs_mini
def test_pycocotools_scores_as_on_the_original(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    view = build_view(MINI, tmp_path/'view')
    rng = np.random.default_rng(0)
    original = json.loads((MINI/'annotations'/'instances_val2017.json').read_text())['annotations']
    detections = [
        dict(image_id=a['image_id'], category_id=a['category_id'],
             bbox=(np.array(a['bbox'])*rng.uniform(.85, 1.15, 4)).tolist(), score=float(rng.uniform()))
        for a in original]
    scores = []
    for file in (MINI/'annotations'/'instances_val2017.json', view.val_annotations):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            judge = COCOeval(truth, truth.loadRes(detections), 'bbox')
            judge.evaluate(), judge.accumulate(), judge.summarize()
        scores.append(judge.stats)
    np.testing.assert_array_equal(*scores)
    assert 0 < scores[0][0] < 1
    sent = {a['id']: a['segmentation'] for a in original}
    assert all(a['segmentation'] == sent[a['id']] for a in json.loads(view.val_annotations.read_text())['annotations'])
