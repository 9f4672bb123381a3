"What ships with the package: scenes, base weights, and the commands of README and guides that use them."
import csv
import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pycocotools.coco import COCO

from bounded import bounded
from conftest import REPOSITORY, command
from yolov10_qat import cli
from yolov10_qat.checkpoint.base_weights import SHIPPED, WeightsError, find_base
from yolov10_qat.checkpoint.store import load_base, open_base
from yolov10_qat.data.scenes import CATEGORY_IDS, KINDS, Thing, draw, scene, write_scenes
from yolov10_qat.data.view import build_view
from yolov10_qat.evaluate.coco_ap import coco_scores
from yolov10_qat.evaluate.heads import evaluate
from yolov10_qat.runs.summary import load_summary

EXAMPLE = Path(__file__).parent/'examples'/'scenes-recipe1.json'


# Scenes

def test_scenes_are_those_of_the_recipe():
    "Annotations of three scenes as they were when the base weights were trained; a recipe that paints others must say so by its number."
    assert [scene(0, split, i).annotations for split,
            i in (('train', 0), ('train', 5), ('val', 2))] == json.loads(EXAMPLE.read_text())


CORNERS = {'triangle': np.array([[-3**.5/2, .5], [3**.5/2, .5], [0, -1]]),
           'cross': np.array(
               [(.95, .3), (.3, .3), (.3, .95), (-.3, .95), (-.3, .3), (-.95, .3), (-.95, -.3), (-.3, -.3), (-.3, -.95),
                (.3, -.95), (.3, -.3), (.95, -.3)]),
           'star': np.array(
               [(np.cos(a)*r, np.sin(a)*r) for i in range(10) for a, r in [(np.pi*i/5, .45 if i % 2 else 1.)]]),}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CORNERS)), st.floats(0, 80), st.floats(0, 60), st.floats(6, 40), st.floats(0, 6.28),
       st.floats(.87, 1.15))
def test_an_object_covers_what_its_polygon_covers(shape, x, y, radius, angle, stretch):
    "Against matplotlib's polygons: turned, stretched and moved corner by corner."
    place, inside = draw(np.zeros((60, 80, 3), 'f4'),
                         Thing(('plain', shape), x, y, radius, angle, stretch, np.zeros((2, 3), 'f4')))
    found = np.zeros((60, 80), bool)
    found[place] = inside
    u, v = (CORNERS[shape]*radius*[stretch, 1/stretch]).T
    c, s = np.cos(angle), np.sin(angle)
    outline = Outline(np.stack([x + c*u - s*v, y + s*u + c*v], 1))
    centres = np.stack(np.meshgrid(np.arange(80)+.5, np.arange(60)+.5), -1).reshape(-1, 2)
    expected = outline.contains_points(centres).reshape(60, 80)
    assert (found ^ expected).sum() <= .06*expected.sum() + 8  # pixels that the outline runs through


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(['train', 'val']), st.integers(0, 10**6), st.sampled_from([32, 96, 320]))
def test_any_scene_is_annotated_within_its_edges(seed, split, index, side):
    made = scene(seed, split, index, side)
    h, w = made.pixels_hw3.shape[:2]
    assert max(h, w) <= side and made.pixels_hw3.dtype == np.uint8
    for a in made.annotations:
        x, y, bw, bh = a['bbox']
        assert 0 <= x < x+bw <= w and 0 <= y < y+bh <= h and 0 < a['area'] <= bw*bh and a[
            'category_id'] in CATEGORY_IDS and a['iscrowd'] in (0, 1)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    "A COCO-format root with 40 and 256 scenes."
    return write_scenes(tmp_path_factory.mktemp('scenes')/'coco', 40, 256)


def test_pycocotools_reads_them_and_the_truth_scores_one(scenes):
    truth = COCO(scenes/'annotations'/'instances_val2017.json')
    anns = truth.loadAnns(truth.getAnnIds())
    assert [truth.loadCats(i)[0]['name'] for i in sorted(truth.getCatIds())] == [' '.join(k) for k in KINDS]
    assert any(a['iscrowd'] for a in anns) and any(not truth.getAnnIds(i) for i in truth.getImgIds())
    perfect = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=.9) for a in anns
               if not a['iscrowd']]
    assert coco_scores(scenes/'annotations'/'instances_val2017.json', perfect).overall['AP'] == pytest.approx(1)


# Base weights

def test_shipped_weights_score_what_they_say(scenes, tmp_path):
    "All 256 validation scenes. 0.003: other processors add in another order."
    _, header = load_base(SHIPPED)
    view = build_view(scenes, tmp_path/'view')
    assert header['facts']['images'] == view.val_images == 256 and SHIPPED.stat().st_size < 6e6
    found = evaluate(open_base(find_base('yolo10n', 'demo').path, 'yolo10n', view.names), view,
                     header['facts']['recipe']['imgsz'])
    assert {head: s.pycocotools['AP'] for head, s in found.items()} == pytest.approx(header['facts']['AP'], abs=.003)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    copy = tmp_path/'copy.safetensors'
    content = bytearray(SHIPPED.read_bytes())
    content[-100] ^= 1
    copy.write_bytes(content)
    monkeypatch.setattr('yolov10_qat.checkpoint.base_weights.SHIPPED', copy)
    with pytest.raises(WeightsError,
                       match=f'damaged: sha256 {hashlib.sha256(content).hexdigest()}, expected [0-9a-f]{{64}}; '
                             'install yolov10-qat again'):
        find_base('yolo10n', 'demo')


# Commands

def test_demo_refuses_a_folder_in_use(tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    done = command('demo', '--run-root', tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'is not empty (it has mine.txt)' in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine.txt']


def test_demo_refuses_a_place_it_cannot_write_to():
    done = command('demo', '--run-root', '/proc/demo')
    assert done.returncode == 1 and done.stderr.count(
        '\n') == 1 and 'cannot write to /proc/demo: ' in done.stderr and 'choose another --run-root' in done.stderr


def test_dataset_paints(tmp_path):
    done = command('dataset', '--demo', '--out', tmp_path/'a', '--train-max-images', 3, '--val-max-images', 2, '--seed',
                   4, '--side', 64)
    assert done.returncode == 0 and done.stdout.strip().endswith(str(tmp_path/'a')), done.stderr
    content = json.loads((tmp_path/'a/annotations/instances_train2017.json').read_text())
    assert len(content['images']) == 3 and content['info']['seed'] == 4 and max(
        i['width'] for i in content['images']) <= 64
    for words in (['--out', tmp_path/'b'], ['--demo', '--coco-root', tmp_path/'a', '--out', tmp_path/'b']):
        done = command('dataset', *words)
        assert done.returncode == 2 and 'name either --coco-root or --demo' in done.stderr


# README and guides

DOCUMENTS = [p for p in (REPOSITORY/'README.md', *sorted((REPOSITORY/'docs'/'guides').glob('*.md')))
             if p.stem != 'blood_cells']  # test_blood_cells.py runs its commands
SMALL = ['--epochs', '1', '--train-max-images', '8', '--val-max-images', '6', '--imgsz', '64', '--batch', '4']


def shell_lines(text):
    "Commands of a page's sh blocks, continued lines joined."
    blocks = re.findall(r'```sh\n(.*?)```', text, flags=re.S)
    return [line.strip() for block in blocks for line in block.replace('\\\n', ' ').splitlines() if line.strip()]


def smaller(line):
    "The same command with a budget that fits a test."
    if line.startswith('papermill "$TEMPLATE"'):
        return ' '.join([line, *(f'-p {k[2:].replace("-", "_")} {v}' for k, v in zip(SMALL[::2], SMALL[1::2]))])
    if line.startswith('yolov10-qat sensitivity'): return f'{line} --val-max-images 4 --imgsz 64'
    if line.startswith('yolov10-qat scratch'):
        return ' '.join([line.replace('--device 0', '--variant yolo10n').replace('path/to/coco', 'demo'), *SMALL])
    if line.startswith('yolov10-qat run') and '--resume' not in line: return ' '.join([line, *SMALL])
    return line


@pytest.fixture
def documented():
    "Command lines of README and guides, page by page, without make; and those of them that need COCO and a GPU."
    lines = [line for page in DOCUMENTS for line in shell_lines(page.read_text(encoding='utf-8')) if not line.startswith('make ')]
    coco = [line for line in lines if 'path/to/coco' in line and ' scratch ' not in line]
    lines = [line for line in lines if 'litert/bin/' not in line]  # test_litert.py makes that environment
    assert coco and len(lines) - len(coco) > 7
    return [line for line in lines if line not in coco], coco


@pytest.fixture
def place(demo_run, tmp_path, monkeypatch):
    "A folder with the demo's run in it, as `make demo` leaves one."
    shutil.copytree(demo_run, tmp_path/'runs/demo', symlinks=True)
    provenance = tmp_path/'runs/demo/dataset/provenance.json'  # its scenes were made where they are
    provenance.write_text(provenance.read_text().replace(str(demo_run), str(tmp_path/'runs/demo')))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_printed(lines):
    "Lines in a shell; nothing of this checkout is on its path but the environment."
    environment = {'PATH': f'{Path(sys.executable).parent}:/usr/bin:/bin', 'HOME': str(Path.cwd()), 'YOLO_VERBOSE': 'false'}
    done = bounded(['bash', '-c', '\n'.join(['set -e', *lines])], env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def as_words(line):
    "A line of which a shell would make words and nothing else, in a process that has torch."
    done = command(*shlex.split(line, comments=True)[1:])
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(3000)  # some twenty commands, several of them runs
def test_documented_commands(documented, place):
    "Page by page, in one folder, as printed; runs are made smaller, and make is called elsewhere."
    shell = []
    for line in map(smaller, documented[0]):
        if line.startswith('yolov10-qat ') and not line.startswith('yolov10-qat dataset '):
            as_printed(shell)
            shell.clear()
            as_words(line)
        else: shell.append(line)
    as_printed(shell)
    for name in ('demo', 'baseline', 'papermill'): assert load_summary(place/'runs'/name).status != 'incomplete'
    assert yaml.safe_load((place/'runs/baseline/run_config.yaml').read_text())['base'] == 'demo'
    assert (place/'runs/comparison/report.html').is_file()
    assert {row['method']
            for row in csv.DictReader((place/'runs/comparison/summary.csv').open())} == {'ema+qc', 'baseline'}
    assert (place/'view/dataset.yaml').is_file()
    assert [t['mode']
            for t in json.loads((place/'runs/scratch/twins/comparison.json').read_text())['twins']] == ['w4a16']


def test_documented_commands_that_need_coco_have_their_options(documented):
    for line in documented[1]:
        name, *words = shlex.split(line)[1:]
        known = {flag for p in typer.main.get_command(cli.app).commands[name].params for flag in (*p.opts, *p.secondary_opts)}
        assert {w for w in words if w.startswith('--')} <= known


def test_documented_python(place):
    python, = re.findall(r'```python\n(import yolov10_qat.*?)```', (REPOSITORY/'docs/guides/runs.md').read_text(encoding='utf-8'), flags=re.S)
    shown = {}
    exec(python, shown)
    assert shown['model'].names
