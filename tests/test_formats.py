"Public formats: what is on disk today must stay readable, and what ships must be what the code says."
import json
import sys
from pathlib import Path

import jsonschema
import nbformat
import torch

from bounded import bounded
from conftest import REPOSITORY
from render_template import parameters
from yolov10_qat.checkpoint.format import FORMAT_VERSION, KEYS
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import RunConfig, parameter_cell
from yolov10_qat.core.layout import TEMPLATE
from yolov10_qat.quant.keeplist import load_keep_list
from yolov10_qat.report.tracking_tables import read_histories, read_keep_layers, read_oscillation
from yolov10_qat.runs.summary import SCHEMA_VERSION, find_rung, load_summary, schema_text

EXAMPLES = Path(__file__).parent/'examples'


def test_shipped_schema_is_the_code_s():
    assert (REPOSITORY/'yolov10_qat'/'schemas'/'run_summary.schema.json').read_text() == schema_text()


def test_summary_example_of_version_1():
    file = EXAMPLES/'run_summary-v1.json'
    jsonschema.validate(json.loads(file.read_text()), json.loads(schema_text()))
    summary = load_summary(file)
    assert SCHEMA_VERSION == 1 and summary.status == 'completed-success'
    assert find_rung(summary, 'fp', 'one2one', 'ultralytics_val').images == 158


def test_checkpoint_example_of_version_1():
    file = EXAMPLES/'checkpoint-v1.pt'
    content = load_checkpoint(file)
    assert FORMAT_VERSION == 1 and set(KEYS) <= set(content)
    assert content['epoch'] == 7 and content['manifest'][0]['bits'] == 4
    recipe = torch.load(file, map_location='cpu', weights_only=False)  # the documented recipe
    assert torch.equal((recipe['ema_state_dict'] or recipe['model_state_dict'])['model.0.conv.weight'],
                       torch.full((1, 1, 1, 1), .5))


def test_keep_list_example_of_version_1():
    file = EXAMPLES/'keep-layers-v1.json'
    layers, found = load_keep_list(file), read_keep_layers(file)
    trade = found['trade']
    assert found['layers'] == layers and found['bits'] == '8'
    assert len(layers) == 20 and next(iter(layers)) == 'model.0.conv' and set(layers.values()) == {8} and (trade[0]['layers'], trade[0]['bytes']) == (0, 0)


def test_keep_list_example_of_version_2():
    file = EXAMPLES/'keep-layers-v2.json'
    layers, found = load_keep_list(file), read_keep_layers(file)
    assert layers == found['layers'] and found['bits'] == '5 to 8' and found['bytes'] == 69146
    assert (len(layers), layers['model.0.conv'], layers['model.20.cv1.conv']) == (52, 8, 5)


def test_oscillation_examples_of_version_1():
    table, histories = read_oscillation(EXAMPLES/'oscillation-v1.csv'), read_histories(EXAMPLES/'oscillation-v1.json')
    assert sorted(table.epoch.unique()) == [0, 1, 2, 3, 4] and table.columns.tolist() == [
        'epoch', 'layer', 'kind', 'weights', 'changed', 'oscillating', 'frequency', 'near', 'frozen', 'scale',
        'scale_drift', 'bn_kl', 'dampening']
    assert histories['format_version'] == 1 and len(
        histories['distance']['layers']) == 3 and histories['momentum'] == .01


def test_template_has_every_parameter_once():
    source = parameters(nbformat.read(TEMPLATE, 4)).source
    assert source == parameter_cell(), 'run: make notebooks'
    names = [line.split(':')[0] for line in source.splitlines()]
    assert names == [*RunConfig.model_fields, 'resume']
    variables = {}
    exec(source, variables)
    for line, (name, field) in zip(source.splitlines(), RunConfig.model_fields.items()):
        assert variables[name] == field.default, name
        told = line.partition('  # ')[2]
        assert told and field.description.startswith(told), name


def test_papermill_explains_and_runs_the_template(tiny, tmp_path):
    "The papermill command, by hand, in a folder of its own."
    papermill = [sys.executable, '-m', 'papermill', str(TEMPLATE)]
    told = bounded([*papermill, '--help-notebook'])
    assert told.returncode == 0 and 'word length of a quantised weight' in told.stdout
    words = dict(run_root='r', coco_root=tiny/'coco', base=tiny/'base.pt', imgsz=64, epochs=1, batch=2,
                 method='baseline')
    done = bounded([*papermill, 'out.ipynb', *(w for k, v in words.items() for w in ('-p', k, str(v)))], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path/'r/report.html').is_file() and load_summary(tmp_path/'r').status == 'completed-failed'
