"The guide on blood cells: its commands as printed, on the photos themselves, with fewer epochs and images; and the converter that it uses."
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from places import ROOT
from test_demo import SMALL, as_printed, as_words, shell_lines
from yolov10_qat.checkpoint import load
from yolov10_qat.runs.summary import load_summary

GUIDE = ROOT/'docs'/'guides'/'blood_cells.md'
CLASSES = ['Platelets', 'RBC', 'WBC']
SPLITS = ('train', 'val', 'test')


def element(tag, *inside):
    "An element of XML with elements, or a text, inside."
    made = ET.Element(tag)
    for x in inside:
        if isinstance(x, ET.Element): made.append(x)
        else: made.text = str(x)
    return made


def voc(folder, splits):
    "Pascal VOC as BCCD_Dataset has it: split -> file name without ending -> (class, corners x1, y1, x2, y2) of each object."
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'): (folder/part).mkdir(parents=True)
    for split in SPLITS:
        (folder/'ImageSets/Main'/f'{split}.txt').write_text('\n'.join(splits[split]) + '\n')
        for name, things in splits[split].items():
            objects = [element('object', element('name', c), element('pose', 'Unspecified'), element('bndbox', *(
                element(*p) for p in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners)))) for c, corners in things]
            size = element('size', element('width', 640), element('height', 480), element('depth', 3))
            ET.ElementTree(element('annotation', element('filename', f'{name}.jpg'), size, *objects)).write(
                folder/'Annotations'/f'{name}.xml')


def convert(folder, *words):
    words = [sys.executable, ROOT/'examples'/'voc_to_coco.py', 'voc', *words]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_voc_becomes_coco(tmp_path):
    "Two boxes of BloodImage_00000, and by hand what COCO's format makes of them."
    voc(tmp_path/'voc', dict(train={'a': [('WBC', (260, 177, 491, 376)), ('RBC', (78, 336, 184, 435))]}, val={'b': []},
                             test={'c': [('Platelets', (1, 2, 4, 8))]}))
    done = convert(tmp_path, 'out', *CLASSES)
    assert done.stdout.splitlines() == ['train: 1 images, 2 boxes', 'val: 1 images, 0 boxes', 'test: 1 images, 1 boxes'], done.stderr
    train, val, test = (json.loads((tmp_path/'out/annotations'/f'instances_{s}.json').read_text()) for s in SPLITS)
    assert train == dict(
        images=[dict(id=1, file_name='a.jpg', width=640, height=480)],
        annotations=[dict(id=1, image_id=1, category_id=2, bbox=[260, 177, 231, 199], area=45969, iscrowd=0),
                     dict(id=2, image_id=1, category_id=1, bbox=[78, 336, 106, 99], area=10494, iscrowd=0)],
        categories=[dict(id=0, name='Platelets'), dict(id=1, name='RBC'), dict(id=2, name='WBC')])
    assert val['annotations'] == [] and test['annotations'][0]['bbox'] == [1, 2, 3, 6]
    assert all((tmp_path/'out'/s).resolve() == (tmp_path/'voc/JPEGImages').resolve() for s in SPLITS)


def test_a_class_that_is_not_named_is_refused(tmp_path):
    voc(tmp_path/'voc', dict(train={'a': [('WBC', (1, 2, 3, 4))]}, val={}, test={}))
    done = convert(tmp_path, 'out', 'RBC', 'Platelets')
    assert done.returncode == 1 and done.stderr.endswith("a.xml: class 'WBC' is none of RBC, Platelets; name it, too\n")


# The guide

def read_boxes(file):
    "File name without ending -> (class, corners) of each object, from COCO's format."
    coco = json.loads(file.read_text())
    names, classes = ({x['id']: x[key] for x in coco[kind]} for kind, key in (('images', 'file_name'), ('categories', 'name')))
    found = {name.removesuffix('.jpg'): [] for name in names.values()}
    for a in coco['annotations']:
        x, y, w, h = a['bbox']
        found[names[a['image_id']].removesuffix('.jpg')].append((classes[a['category_id']], (x, y, x+w, y+h)))
    return found


@pytest.fixture
def bccd(shared):
    if not (shared/'bccd').is_dir(): pytest.skip('no ../shared/bccd beside this checkout')
    return shared/'bccd'


@pytest.fixture
def place(bccd, shared, tmp_path, monkeypatch):
    "The folder of a checkout, after the two downloads of the guide."
    truth = {s: read_boxes(bccd/'annotations'/f'instances_{s}.json') for s in SPLITS}
    voc(tmp_path/'BCCD_Dataset/BCCD', truth)
    for split in SPLITS:
        for photo in (bccd/split).iterdir(): shutil.copy(photo, tmp_path/'BCCD_Dataset/BCCD/JPEGImages')
    (tmp_path/'examples').symlink_to(ROOT/'examples')
    shutil.copy(shared/'weights/yolov10n-coco.pt', tmp_path/'yolov10n.pt')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller(line):
    "The same command with a budget that fits a test."
    if line.startswith('yolo detect train'): return f'{line} epochs=1 imgsz=64 fraction=0.1'
    if line.startswith('yolov10-qat run'): return ' '.join([line, *SMALL, '--train-max-images 80'])  # fewer choose nothing
    return line


@pytest.mark.slow
def test_the_commands_of_the_guide(place, bccd):
    clone, *lines = shell_lines(GUIDE.read_text(encoding='utf-8'))
    assert clone == 'git clone --depth 1 https://github.com/Shenggan/BCCD_Dataset'  # not in a test: `place` has it
    for line in map(smaller, lines):
        if line.startswith('yolov10-qat '): as_words(line)
        else: as_printed([line])
    for split in SPLITS:
        file = f'annotations/instances_{split}.json'
        assert read_boxes(place/'bccd'/file) == read_boxes(bccd/file)
    summary = load_summary(place/'runs/blood-cells')
    assert summary.status != 'incomplete' and summary.dataset.val_images == 6
    assert [*load('runs/blood-cells/delivered.pt').names.values()] == CLASSES
    assert (place/'runs/blood-cells/report.html').is_file() and (place/'reports/blood-cells/README.md').is_file()
