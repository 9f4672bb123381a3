"Data as people have it: odd images, names, ids and numbers, and what a view makes of them. The oracles are Ultralytics, OpenCV and pycocotools."
import hashlib
import io
import json
import os
import shutil
import unicodedata
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from PIL import Image

from tiny import tiny_coco
from yolov10_qat.data.annotations import DataError, ImageRecord
from yolov10_qat.data.images import FORMATS, image_fault, image_size
from yolov10_qat.data.view import build_view, load_view
from yolov10_qat.evaluate import coco_ap

# --- images: what Ultralytics looks at, and nothing else --------------------------------------------------------------

W, H = 64, 48
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def saved(form, picture=PICTURE, **kw):
    data = io.BytesIO()
    picture.save(data, form, **kw)
    return data.getvalue()

JPEG, PNG = saved('JPEG'), saved('PNG')
FRAME, SCAN = JPEG.index(b'\xff\xc0'), JPEG.index(b'\xff\xda')


def grey(dtype): return Image.fromarray(np.zeros((H, W), dtype))
def by_opencv(suffix, pixels): return cv2.imencode(suffix, pixels)[1].tobytes()
def frame(marker): return JPEG[:FRAME+1] + bytes([marker]) + JPEG[FRAME+2:]

IMAGES = {  # name -> content
    'plain.jpg': JPEG, 'progressive.jpg': saved('JPEG', progressive=True), 'grey.jpg': saved('JPEG', PICTURE.convert('L')),
    'cmyk.jpg': saved('JPEG', PICTURE.convert('CMYK')), 'turned.jpg': saved('JPEG', exif=TURNED),
    'turned.png': saved('PNG', exif=TURNED), 'turned.webp': saved('WEBP', exif=TURNED),
    'turned.tif': saved('TIFF', exif=TURNED), 'trailing.jpg': JPEG + b'xx', 'no huffman tables.jpg': JPEG.replace(
        b'\xff\xc4', b'\xff\xef'), 'no quantisation tables.jpg': JPEG.replace(b'\xff\xdb', b'\xff\xef'),
    '12 bits.jpg': JPEG[:FRAME+4] + b'\x0c' + JPEG[FRAME+5:], 'arithmetic.jpg': frame(0xc9), 'lossless.jpg': frame(0xc3),
    'no scan.jpg': JPEG[:SCAN] + b'\xff\xd9', 'zeros.jpg': JPEG[:SCAN+14] + bytes(200) + b'\xff\xd9',
    'cut.jpg': JPEG[:-60], 'cut.png': PNG[:len(PNG)//2], 'cut.bmp': saved('BMP')[:4000], 'cut.tif': saved('TIFF')[:4000],
    'cut.webp': saved('WEBP')[:2000], 'broken.png': PNG[:3000] + b'zz' + PNG[3002:], 'empty.jpg': b'', 'text.jpg': b'no',
    'gif.jpg': saved('GIF'), 'ppm.jpg': saved('PPM'), 'ico.png': saved('ICO'), 'tga.jpg': saved('TGA'),
    'pcx.jpg': saved('PCX'), 'png.jpg': PNG, 'bmp.jpg': saved('BMP'), 'tiff.jpg': saved('TIFF'),
    'webp.jpg': saved('WEBP'), 'jpeg2000.jpg': saved('JPEG2000'), 'mpo.jpg': saved('MPO'), 'plain.tif': saved('TIFF'),
    'animated.webp': saved('WEBP', save_all=True, append_images=[PICTURE.rotate(180)]),
    'animated.png': saved('PNG', save_all=True, append_images=[PICTURE.rotate(180)]),
    'pages.tif': saved('TIFF', save_all=True, append_images=[PICTURE.rotate(180)]),
    '16 bits.png': saved('PNG', grey(np.uint16)), '16 bits.tif': saved('TIFF', grey(np.uint16)),
    '32 bits.tif': saved('TIFF', grey(np.int32)), 'float.tif': saved('TIFF', grey(np.float32)),
    '3 floats.tif': by_opencv('.tif', np.zeros((H, W, 3), np.float32)),
    '16 bits, colour.png': by_opencv('.png', np.zeros((H, W, 3), np.uint16)),
    **{f'{mode}.png': saved('PNG', PICTURE.convert(mode)) for mode in ('1', 'L', 'P', 'LA', 'RGBA')},
    'tiny.jpg': saved('JPEG', PICTURE.resize((9, 9))), 'small.jpg': saved('JPEG', PICTURE.resize((10, 10)))}


def looked_at(path):
    "Size of what Ultralytics trains on and scores; None where it drops the image or fails on it."
    from ultralytics.data.utils import verify_image_label
    from ultralytics.utils.patches import imread
    try: pixels = imread(path)
    except cv2.error: pixels = None
    found = verify_image_label((path, 'none.txt', '', False, 1, 0, 0, False))
    return None if pixels is None or found[0] is None else pixels.shape[1::-1]


@pytest.mark.parametrize('name', IMAGES)
def test_an_image_is_taken_when_ultralytics_and_opencv_take_it(name, tmp_path):
    path = tmp_path/name
    path.write_bytes(IMAGES[name])
    expected = looked_at(str(shutil.copy(path, tmp_path/f'copy {name}')))
    faults = {size: image_fault(str(path), ImageRecord(1, name, *size)) for size in ((W, H), (H, W), (10, 10))}
    if expected is None: assert set(faults.values()) <= {'unreadable', 'too small', f'is {name[:3].upper()}'}
    else:
        assert image_size(str(path)) == expected
        assert faults == {size: None if size == expected else 'other size' for size in faults}
    assert path.read_bytes() == IMAGES[name]  # Ultralytics rewrites some, we none


def test_formats_are_those_of_ultralytics():
    from ultralytics.data.utils import IMG_FORMATS
    assert FORMATS == (IMG_FORMATS | {'jpeg2000'}) - {'jpg', 'tif', 'jp2', 'dng'}  # suffixes that are no format


def test_a_jpeg_of_more_pixels_than_pillow_opens_is_left_out(tmp_path, monkeypatch):
    (tmp_path/'a.jpg').write_bytes(JPEG)
    def fault(most):
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', most)
        return image_fault(str(tmp_path/'a.jpg'), ImageRecord(1, 'a.jpg', W, H))
    assert [fault(most) for most in (W*H//2, W*H//2-1, None)] == [None, 'too many pixels', None]


def coco(root, images=4, split='val2017'):
    "tiny data whose annotation file of one split can be edited: its path and its content."
    tiny_coco(root, images)
    file = root/f'annotations/instances_{split}.json'
    return file, json.loads(file.read_text())


def test_what_is_left_out_is_in_neither_truth_nor_list_and_is_said(tmp_path):
    file, content = coco(tmp_path/'coco', 120)
    gif = tmp_path/'coco/val2017/004.jpg'
    Image.open(gif).save(gif, 'GIF')
    view = build_view(tmp_path/'coco', tmp_path/'view')
    truth = json.loads(view.val_annotations.read_text())
    others = [i for i in range(1, 121) if i != 4]
    assert [i['id'] for i in truth['images']] == others == [a['image_id'] for a in truth['annotations']]
    assert len(view.images('val')) == 119 and not list((view.root/'labels/val').glob('004*'))
    assert view.warnings == ['val2017: images left out: 1: 004.jpg (is GIF)']
    assert view.provenance['splits']['val']['faults'] == {'004.jpg': 'is GIF'}
    Image.open(gif).save(gif.with_name('005.jpg'), 'GIF')
    with pytest.raises(DataError, match=r'2 of 120 .*004.jpg \(is GIF\), 005.jpg \(is GIF\); restore or convert'):
        build_view(tmp_path/'coco', tmp_path/'other')

# --- names ------------------------------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, 'été.jpg') for form in ('NFC', 'NFD'))
SPELT = {  # where the file is, what the annotation file says
    'back-slash': ('sub/a.jpg', 'sub\\a.jpg'), 'prefix': ('a.jpg', 'images/a.jpg'), 'dot': ('sub/a.jpg', '.\\sub\\a.jpg'),
    'below': ('images/a.jpg', 'a.jpg'), 'NFC': (NFD, NFC), 'NFD': (NFC, NFD), 'suffix': ('a.JPG', 'a.jpg'),
    'another suffix': ('a.jpg', 'a.JPG'), 'home': ('a.jpg', '/home/ann/train/a.jpg'),
    'drive': ('sub/a.jpg', 'C:\\Users\\Ann\\sub\\a.jpg'), 'label studio': ('a.jpg', 'images/1f2e3d4c-a.jpg'),
    'split': ('a.jpg', 'val2017/a.jpg')}


def one_image(root, there, *said):
    "A split of one file, which the annotation file names as it likes."
    for split in ('train2017', 'val2017'):
        path = root/split/there
        path.parent.mkdir(parents=True)
        PICTURE.save(path, 'JPEG')
        images = [dict(id=i, file_name=name, width=W, height=H) for i, name in enumerate(said, 1)]
        boxes = [dict(id=i['id'], image_id=i['id'], category_id=1, bbox=[10, 8, 40, 30]) for i in images]
        (root/'annotations').mkdir(exist_ok=True)
        (root/f'annotations/instances_{split}.json').write_text(
            json.dumps(dict(images=images, annotations=boxes, categories=[dict(id=1, name='x')])))
    return root


@pytest.mark.parametrize('case', SPELT)
def test_a_file_is_found_under_another_spelling(case, tmp_path):
    there, said = SPELT[case]
    view = build_view(one_image(tmp_path/'coco', there, said), tmp_path/'view')
    assert [os.path.relpath(i, view.root/'images/val') for i in view.images('val')] == [there]
    assert json.loads(view.val_annotations.read_text())['images'][0]['file_name'] == there
    assert view.warnings[0] == 'train2017: images found under another spelling of their file_name: 1'
    assert load_view(view.root) == view and view.provenance['splits']['val']['renamed'] == 1


@pytest.mark.parametrize('there,said,message', [
    ('cam2/a.jpg', ['cam1/a.jpg'], r'cam1/a.jpg \(missing\).*the folder has cam2'),
    ('a.jpg', ['b.jpg'], r'b.jpg \(missing\).*the folder has a.jpg'),
    ('a.jpg', ['a.jpg', 'images/a.jpg'], "images 1 and 2, 'a.jpg' and 'images/a.jpg', are one file, 'a.jpg'"),
    ('a.jpg', ['x/a.jpg', 'y\\a.jpg'], r"'x/a.jpg' and 'y\\a.jpg', are one file"),
    ('a.jpg', ['../val2017/a.jpg'], 'stays inside the image folder'),
    ('a.jpg', ['images\\..\\..\\a.jpg'], r'\(missing\)'),
    ('a.jpg', ['/etc/passwd'], "file_name '/etc/passwd'; it must be a relative path"),
    ('a.jpg', ['a\x1b[2K.jpg'], r'a\\x1b\[2K.jpg \(missing\)'),
])
def test_a_name_that_means_no_file_for_certain_is_refused(there, said, message, tmp_path):
    root = one_image(tmp_path/'coco', there, *said)
    with pytest.raises(DataError, match=message) as caught: build_view(root, tmp_path/'view')
    assert '\n' not in str(caught.value) and os.listdir(tmp_path) == ['coco']


def test_the_same_letters_twice_are_ambiguous(tmp_path):
    root = one_image(tmp_path/'coco', 'a.JPG', 'A.jpg')
    PICTURE.save(root/'train2017/a.jpg', 'JPEG')
    with pytest.raises(DataError, match=r'A.jpg \(missing\)'): build_view(root, tmp_path/'view')


@pytest.mark.parametrize('layout', ['roboflow', 'images'])
def test_other_layouts_are_found_and_views_of_them_load(layout, tmp_path):
    root = one_image(tmp_path/'coco', 'a.jpg', 'a.jpg')
    for split in ('train2017', 'val2017'):
        if layout == 'images': shutil.move(root/split, root/'images'/split) if (root/'images').mkdir(
            exist_ok=True) is None else None
        else: (root/f'annotations/instances_{split}.json').rename(root/split/'_annotations.coco.json')
    view = build_view(root, tmp_path/'view')
    assert (view.train_images, view.val_images) == (1, 1) and not view.warnings
    assert build_view(root, tmp_path/'view') == load_view(view.root) == view
    next((root if layout == 'roboflow' else root/'images').glob('val2017/a.jpg')).unlink()
    with pytest.raises(DataError, match='1 files of val are gone'): load_view(view.root)


def test_a_layout_that_is_unknown_is_answered_with_what_there_is(tmp_path):
    root = one_image(tmp_path/'coco', 'a.jpg', 'a.jpg')
    (root/'train2017').rename(root/'pictures')
    with pytest.raises(FileNotFoundError, match='coco has annotations, pictures, val2017; name'):
        build_view(root, tmp_path/'view')
    (root/'pictures').rename(root/'train2017')
    (root/'annotations/instances_train2017.json').rename(root/'annotations/labels.json')
    with pytest.raises(FileNotFoundError, match='there is instances_val2017.json, labels.json; name'):
        build_view(root, tmp_path/'view')


@pytest.mark.parametrize('folder', ['images/', 'cam1/images/', 'images/images/', ''])
def test_a_fault_among_images_below_images_leaves_a_whole_view(folder, tmp_path):
    file, content = coco(tmp_path/'coco', 120)
    place = file.parent.parent/'val2017'
    (place/folder).mkdir(parents=True, exist_ok=True)
    for image in content['images']:
        (place/image['file_name']).rename(place/folder/image['file_name'])
        image['file_name'] = folder + image['file_name']
    file.write_text(json.dumps(content))
    (place/content['images'][7]['file_name']).unlink()
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert view.val_images == 119 == len([p for p in view.root.rglob('*.txt') if 'labels' in p.parts])-120
    (place/content['images'][9]['file_name']).unlink()
    for _ in range(2):  # a fault leaves nothing in the way of the next try
        with pytest.raises(DataError, match='2 of 120'): build_view(tmp_path/'coco', tmp_path/'again')
    assert sorted(os.listdir(tmp_path)) == ['coco', 'view']


def test_a_label_in_place_of_a_folder_is_refused(tmp_path):
    root = one_image(tmp_path/'coco', 'a.jpg', 'a.jpg', 'a.txt/b.jpg')
    with pytest.raises(DataError, match=r"1 \('a.jpg'\) and 2 \('a.txt/b.jpg'\) have the same place for a label"):
        build_view(root, tmp_path/'view')

# --- numbers ----------------------------------------------------------------------------------------------------------

def as_floats(c):
    for image in c['images']: image.update({k: float(image[k]) for k in ('id', 'width', 'height')})
    for a in c['annotations']:
        a.update({k: float(a[k]) for k in ('id', 'image_id', 'category_id', 'iscrowd')})
    for category in c['categories']: category['id'] = float(category['id'])
def as_text(c):
    for image in c['images']: image['id'] = str(image['id'])
    for a in c['annotations']: a.update(id=str(a['id']), image_id=str(a['image_id']))
def crowd(value): return lambda c: [a.update(iscrowd=value) for a in c['annotations']]
def without(key): return lambda c: [a.pop(key) for a in c['annotations']]


@pytest.mark.parametrize('change', [as_floats, as_text, crowd(None), crowd(False), crowd(0.), without('iscrowd'),
                                    without('id')],
                         ids=['floats', 'text', 'null', 'false', '0.0', 'no iscrowd', 'no id'])
def test_numbers_are_read_as_what_they_mean(change, tmp_path):
    file, content = coco(tmp_path/'coco')
    plain = build_view(tmp_path/'coco', tmp_path/'plain')
    change(content)
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert (view.fingerprint, view.warnings) == (plain.fingerprint, [])
    read = [json.loads(v.val_annotations.read_text()) for v in (plain, view)]
    assert read[0] == read[1]


@pytest.mark.parametrize('value', [True, 1, 1.])
def test_crowd_is_crowd_however_it_is_written(value, tmp_path):
    file, content = coco(tmp_path/'coco')
    content['annotations'][0]['iscrowd'] = value
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert view.provenance['splits']['val']['skipped']['crowd']['first_ids'] == [1]


@pytest.mark.parametrize('section,field,value,message', [
    ('annotations', 'iscrowd', 1e30, r'annotations\[0\].iscrowd \(record with id 1, iscrowd = 1e\+30\)'),
    ('annotations', 'iscrowd', 2, r'annotations\[0\].iscrowd \(record with id 1, iscrowd = 2\)'),
    ('annotations', 'iscrowd', .5, r'annotations\[0\].iscrowd'),
    ('annotations', 'iscrowd', 'yes', r'annotations\[0\].iscrowd'),
    ('images', 'width', 64.5, r'images\[0\].width \(record with id 1, width = 64.5\)'),
    ('images', 'width', 1e30, r'images\[0\].width'),
    ('images', 'id', None, r'images\[0\].id'),
    ('images', 'id', True, r'images\[0\].id'),
    ('categories', 'id', 2**70, r'categories\[0\].id'),
    ('annotations', 'category_id', 'red', r'annotations\[0\].category_id \(record with id 1, category_id = red\)'),
])
def test_a_number_without_a_meaning_is_named(section, field, value, message, tmp_path):
    file, content = coco(tmp_path/'coco')
    content[section][0][field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message): build_view(tmp_path/'coco', tmp_path/'view')


def test_a_box_too_large_for_arithmetic_is_left_out(tmp_path):
    file, content = coco(tmp_path/'coco')
    content['annotations'][0].update(bbox=[0, 0, 1e200, 1e200])
    content['annotations'][1].update(bbox=[0, 0, 1e90, 1e90])
    del content['annotations'][1]['area']
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert view.provenance['splits']['val']['skipped']['not finite']['first_ids'] == [1]
    assert [a['area'] for a in json.loads(view.val_annotations.read_text())['annotations']][0] == pytest.approx(1e180)

# --- ids --------------------------------------------------------------------------------------------------------------

IDS = {'repeated': lambda k, of: 1, 'within each image': lambda k, of: k % 2 + 1, 'from 0': lambda k, of: k,
       'negative': lambda k, of: -k, 'huge': lambda k, of: 2**53 + k, 'beyond 64 bits': lambda k, of: 2**70 + k,
       'text': lambda k, of: f'{of}-{k}', 'two files joined': lambda k, of: k//2 + 1}


def two_boxes(root):
    "An annotation file of six images and two boxes each, with ids that are in order."
    file, content = coco(root, 6)
    first = content['annotations']
    second = [a | dict(bbox=[1, 1, 12, 12], area=144) for a in first]
    content['annotations'] = [a for pair in zip(first, second) for a in pair]
    for k, a in enumerate(content['annotations'], 1): a['id'] = k
    file.write_text(json.dumps(content))
    return file, content


def scored(file, detections): return coco_ap.coco_scores(file, detections).overall


def refereed(file, detections, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(coco_ap, 'hotcoco', None)
        return scored(file, detections)


@pytest.mark.parametrize('case', IDS)
def test_scores_do_not_depend_on_annotation_ids(case, tmp_path, monkeypatch):
    file, content = two_boxes(tmp_path/'coco')
    rng = np.random.default_rng(1)
    detections = [dict(image_id=a['image_id'], category_id=a['category_id'], score=float(rng.random()),
                       bbox=(np.array(a['bbox'])*rng.uniform(.8, 1.2, 4)).tolist()) for a in content['annotations']]
    expected = refereed(file, detections, monkeypatch)
    plain = build_view(tmp_path/'coco', tmp_path/'plain')
    assert [a['id'] for a in json.loads(plain.val_annotations.read_text())['annotations']] == list(range(1, 13))
    for k, a in enumerate(content['annotations']): a['id'] = IDS[case](k, a['image_id'])
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert len(json.loads(view.val_annotations.read_text())['annotations']) == 12
    assert 0 < expected['AP'] < 1
    for found in (scored(view.val_annotations, detections), refereed(view.val_annotations, detections, monkeypatch)):
        assert found == pytest.approx(expected, abs=1e-12)
    known = case in ('text', 'beyond 64 bits')  # these are replaced as they are read
    assert view.warnings == [] if known else ['val2017: annotation ids are repeated or out of range, the view numbers '
                                              'them from 1']
    assert view.provenance['splits']['val']['skipped']['duplicate id']['count'] == 0
    if case in ('from 0', 'huge'): assert view.fingerprint == plain.fingerprint


def test_repeated_ids_in_another_order_of_the_file_give_the_same_view(tmp_path):
    file, content = two_boxes(tmp_path/'coco')
    views = []
    for name in ('one', 'two'):
        for a in content['annotations']: a['id'] = 1
        file.write_text(json.dumps(content))
        views.append(build_view(tmp_path/'coco', tmp_path/name))
        content['annotations'].reverse()
    assert views[0].fingerprint == views[1].fingerprint
    assert views[0].val_annotations.read_bytes() == views[1].val_annotations.read_bytes()


def test_the_same_record_twice_is_one(tmp_path):
    file, content = coco(tmp_path/'coco')
    content['annotations'] += content['annotations'][:1]
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    assert view.provenance['splits']['val']['skipped']['duplicate id'] == dict(count=1, first_ids=[1])
    assert [a['id'] for a in json.loads(view.val_annotations.read_text())['annotations']] == [1, 2, 3, 4]


@pytest.mark.parametrize('new', [lambda i: i-1, lambda i: -i, lambda i: 2**53+i, lambda i: f'img-{9-i}', lambda i: 2**65+i],
                         ids=['from 0', 'negative', 'huge', 'text', 'beyond 64 bits'])
def test_scores_do_not_depend_on_image_ids(new, tmp_path, monkeypatch):
    file, content = two_boxes(tmp_path/'coco')
    names = {i['id']: i['file_name'] for i in content['images']}
    def detections(view_file):
        ids = {i['file_name']: i['id'] for i in json.loads(view_file.read_text())['images']}
        rng = np.random.default_rng(1)
        return [dict(image_id=ids[names[a['image_id']]], category_id=a['category_id'], score=float(rng.random()),
                     bbox=(np.array(a['bbox'])*rng.uniform(.8, 1.2, 4)).tolist()) for a in two['annotations']]
    two = msgspec.json.decode(file.read_bytes())
    expected = refereed(file, detections(file), monkeypatch)
    for image in content['images']: image['id'] = new(image['id'])
    for a in content['annotations']: a['image_id'] = new(a['image_id'])
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    found = detections(view.val_annotations)
    for score in (scored(view.val_annotations, found), refereed(view.val_annotations, found, monkeypatch)):
        assert score == pytest.approx(expected, abs=1e-12)
    ours = not isinstance(new(1), int) or new(1) > 2**63
    assert view.warnings == (['val2017: image ids are no integers, they became 1 to n in their order'] if ours else [])
    assert view.provenance['splits']['val']['new_ids'] == dict(images=ours, annotations=False)


def test_two_files_with_one_image_id_are_refused_with_both_names(tmp_path):
    file, content = coco(tmp_path/'coco')
    for i in (0, 1): content['images'][i]['id'] = 'same'
    for text in (content, json.loads(json.dumps(content).replace('"same"', '1'))):
        file.write_text(json.dumps(text))
        with pytest.raises(DataError, match=r"\('001.jpg'\) and \d \('002.jpg'\) have the same id"):
            build_view(tmp_path/'coco', tmp_path/'view')

# --- what is not used -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('count,said', [(3, False), (4, True)])
def test_more_than_three_in_a_hundred_left_out_are_said(count, said, tmp_path):
    file, content = coco(tmp_path/'coco', 100)
    for a in content['annotations'][:count]: a['iscrowd'] = 1
    file.write_text(json.dumps(content))
    view = build_view(tmp_path/'coco', tmp_path/'view')
    line = 'val2017: 4 of 100 annotations (4%) are not learned from: 4 crowd; crowd (iscrowd 1) is neither learned'
    assert [w[:len(line)] for w in view.warnings] == [line]*said == [
        w[:len(line)] for w in view.provenance['warnings']]


def test_a_refusal_names_what_was_left_out(tmp_path):
    file, content = coco(tmp_path/'coco')
    for a, change in zip(content['annotations'], (dict(iscrowd=1), dict(iscrowd=1), dict(bbox=[1, 1, 0, 5]),
                                                  dict(bbox=[90, 90, 5, 5]))): a.update(change)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match='no box left after filtering in 4 images, left out: 2 crowd, 1 no size, '
                                        '1 outside the image; take more'): build_view(tmp_path/'coco', tmp_path/'view')

# --- what stays -------------------------------------------------------------------------------------------------------

def test_validation_takes_the_first_by_id_and_training_those_drawn_by_the_seed(tmp_path):
    for split in ('val2017', 'train2017'):
        file, content = coco(tmp_path/split/'coco', 12, split)
        shuffled = np.random.default_rng(0).permutation(12).tolist()
        content['images'] = [content['images'][i] for i in shuffled]
        file.write_text(json.dumps(content))
        for count in (1, 5, 12):
            view = build_view(file.parent.parent, tmp_path/split/str(count), train_max_images=count,
                              val_max_images=count, seed=7)
            def ids(key, v=view): return [int(p.stem) for p in v.images(key)]
            assert ids('val') == list(range(1, count+1))
            drawn = sorted(range(1, 13), key=lambda i: hashlib.sha256(f'7:{i}'.encode()).hexdigest())[:count]
            assert ids('train') == sorted(drawn)
            truth = json.loads(view.val_annotations.read_text())
            assert [i['id'] for i in truth['images']] == ids('val') == [a['image_id'] for a in truth['annotations']]


def test_an_ordinary_view_has_the_fingerprint_and_the_bytes_of_0_1_0(tmp_path):
    tiny_coco(tmp_path/'coco')
    view = build_view(tmp_path/'coco', tmp_path/'view')
    digest = hashlib.sha256(view.val_annotations.read_bytes() + view.train_annotations.read_bytes()).hexdigest()
    assert (view.fingerprint[:16], digest[:16]) == ('f68871e965b26d27', '1935225dfd84231a')


def test_a_view_of_0_1_0_loads(tmp_path):
    tiny_coco(tmp_path/'coco')
    view = build_view(tmp_path/'coco', tmp_path/'view')
    for split in view.provenance['splits'].values(): del split['renamed'], split['new_ids']
    Path(view.root/'provenance.json').write_text(json.dumps(view.provenance))
    assert build_view(tmp_path/'coco', tmp_path/'view').fingerprint == view.fingerprint
