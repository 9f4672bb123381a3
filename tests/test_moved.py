"Import paths of version 0.1.0 go on working: those of its README, its tutorials and the notes of published runs."
import re
import subprocess
import sys

import pytest

from places import ROOT
from yolov10_qat._moved import MOVED

PUBLISHED = """
from yolov10_qat import load
from yolov10_qat.checkpoint import load, open_base
from yolov10_qat.coco import DataError, build_view, plot_classes
from yolov10_qat.config import PRIMARY, RunConfig, changed_fields
from yolov10_qat.contents import average_bits
from yolov10_qat.correction import Corrected, fold_qc, insert_qc
from yolov10_qat.folder import TEMPLATE
from yolov10_qat.launch import RunFailed, start
from yolov10_qat.qat import QATTrainer
from yolov10_qat.quantizer import codes_and_steps, plan, quant_conv, quantize, quantized_layers
from yolov10_qat.result import story
from yolov10_qat.scenes import CATEGORY_IDS, KINDS, background, draw, random_thing, scene
from yolov10_qat.trainer import EqualHeadLoss, FloatTrainer
from yolov10_qat.weights import find_base
""".strip().splitlines()


def python(code): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)


def test_published_imports():
    done = python(
        '\n'.join([*PUBLISHED, 'import yolov10_qat.train.qat_trainer as new', 'assert QATTrainer is new.QATTrainer']))
    assert done.returncode == 0, done.stderr


def test_published_runs_import_nothing_else():
    "Every module that a published page names is one that exists, or one that hands on."
    named = {m for page in (ROOT/'reports').rglob('*.md')
             for m in re.findall(r'yolov10_qat\.(\w+)', page.read_text(encoding='utf-8'))}
    assert named and named <= {*MOVED, 'checkpoint', 'load', 'train'}


@pytest.mark.parametrize('line',
                         ['from yolov10_qat.coco import nothing', 'from yolov10_qat.checkpoint import nothing',
                          'import yolov10_qat.nothing'])
def test_what_never_was_is_refused(line): assert python(line).returncode


def test_old_paths_cost_nothing_until_asked():
    done = python("import sys, yolov10_qat.quantizer; print(sorted({'torch', 'brevitas'} & {*sys.modules}))")
    assert done.stdout == '[]\n'
