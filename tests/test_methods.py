"A part of a method is registered once, and every room knows it: a made-up part in a process of its own."
import json
import subprocess
import sys
from pathlib import Path

import pytest

REGISTER = '''
import sys
sys.path.insert(0, {tests!r})
from yolov10_qat.core.fields import Settings, knob
from yolov10_qat.core.methods import Part, Record, register

class ShakeOptions(Settings):
    "Settings of a remedy that does not exist."
    shake_strength:float = knob(0.2, 'how hard weights are shaken', gt=0, le=1)

class Shake(Record):
    strength:float|None = None

def problems(config, steps): return ['shake_strength=1.0 shakes everything off: lower it'] if config.shake_strength == 1 else []

register(Part(name='shake', help='shake weights loose', options=ShakeOptions, record=Shake, color='#56B4E9', problems=problems,
              constants=lambda config, steps: dict(strength=config.shake_strength), remedy='shaking:Shaking'))
'''


def after_registering(code, tmp_path, *words):
    "What a program prints that registers the part before anything else, as JSON."
    program = REGISTER.format(tests=str(Path(__file__).parent)) + code
    done = subprocess.run([sys.executable, '-c', program, *words], capture_output=True, text=True, timeout=300,
                          cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_configuration(tmp_path):
    found = after_registering('''
import json
from yolov10_qat.core.config import ConfigError, RunConfig, identity, load_config, save_config
def refusal(**given):
    try: return RunConfig(**given).method
    except ConfigError as e: return str(e)
config = RunConfig(method='qc+shake+ema', shake_strength=.5)
print(json.dumps(dict(
    method=config.method, again=load_config(save_config(config, 'c.yaml')) == config, identity=identity(config, 'f')['shake_strength'],
    range=refusal(method='shake', shake_strength=2), together=refusal(method='shake', shake_strength=1), typo=refusal(method='shaek'),
    float=refusal(method='shake', quantize=False))))
''', tmp_path)
    assert found['method'] == 'ema+qc+shake' and found['again'] and found['identity'] == .5
    assert found['range'].startswith('shake_strength=2: must be less than or equal to 1')
    assert found['together'] == 'shake_strength=1.0 shakes everything off: lower it'
    assert "did you mean 'shake'?" in found['typo']
    assert found['float'].startswith('method=shake needs quantised weights')


def test_help(tmp_path):
    told = after_registering('''
import contextlib, io, json
from yolov10_qat.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit): main(['run', '--help'])
print(json.dumps([' '.join(out.getvalue().replace('│', ' ').split()), 'torch' in sys.modules]))
''', tmp_path)
    assert ('shake (shake weights loose)' in told[0] and '--shake-strength' in told[0]
            and 'how hard weights are shaken' in told[0])
    assert not told[1]


def test_summary(tmp_path):
    found = after_registering('''
import json
from yolov10_qat.core.config import RunConfig
from yolov10_qat.pipeline.blocks import method_block
from yolov10_qat.runs.summary import schema_text
blocks = [method_block(RunConfig(method=m, shake_strength=.5), 100) for m in ('ema+shake', 'ema')]
known = json.loads(schema_text())['$defs']['Method']['properties']
print(json.dumps([*(b.model_dump()['shake'] for b in blocks), 'shake' in known]))
''', tmp_path)
    assert found == [{'enabled': True, 'strength': .5}, {'enabled': False, 'strength': None}, True]


def test_comparison(tmp_path):
    found = after_registering('''
import json
from pathlib import Path
from many_runs import store, vary
from yolov10_qat.compare.page import write_comparison
runs = [vary(), vary('yolo10n', 'ema'), *(vary('yolo10n', 'ema', seed=s, run_id=f'shaken-{s}', shift=.01) for s in (0, 1))]
for run in runs[2:]: run['method'] |= {'variant': 'ema+shake', 'shake': {'enabled': True, 'strength': .5}}
write_comparison([store(Path('runs'), *runs[1:])], 'out')
told = json.loads(Path('out/comparison.json').read_text())
print(json.dumps([told['variants'][0]['arms'], Path('out/summary.md').read_text(), [s['label'] for s in told['variants'][0]['states']]]))
''', tmp_path)
    shaken = next(a for a in found[0] if a['method'] == 'ema+shake')
    assert shaken['label'] == 'ema+shake' and shaken['seeds'] == [0, 1] and shaken['recipe']['shake strength'] == '0.5'
    assert 'ema+shake' in found[1]
    assert 'shake: QAT raw' in found[2], 'a part of the training sets its raw weights apart'


@pytest.mark.parametrize('order', ['late', 'twice'])
def test_a_registration_that_comes_to_nothing_is_refused(order, tmp_path):
    code = {'late': "import yolov10_qat.core.config\nfrom dataclasses import replace\nregister(replace(PARTS['ema'], name='shiver'))", 'twice': "register(PARTS['ema'])"}[order]
    program = f'from yolov10_qat.core.methods import PARTS, register\n{code}'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=300)
    said = {'late': "register 'shiver' before", 'twice': "'ema' is registered already"}[order]
    assert done.returncode and said in done.stderr
