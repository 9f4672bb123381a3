"What killed processes and strangers leave: parts of a data set are cleared away, an optimizer that does not fit is named."
import copy
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import optimizer_misfit
from yolov10_qat.data.view import build_view
from yolov10_qat.train.float_trainer import FloatTrainer

# --- parts of a data set ------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def ended():
    "The number of a process that is no more."
    done = subprocess.Popen([sys.executable, '-c', ''])
    done.wait()
    return done.pid


def parts(folder, *names):
    for name in names: (folder/name/'images').mkdir(parents=True)
    return [folder/name for name in names]


def test_a_part_of_a_killed_process_goes(tiny, tmp_path, ended):
    left, = parts(tmp_path, f'.view.{platform.node()}-{ended}.part')
    build_view(tiny/'coco', tmp_path/'view')
    assert not left.exists() and [p.name for p in tmp_path.iterdir()] == ['view']


def test_other_folders_stay(tiny, tmp_path, ended):
    "Of a process that lives, of another machine, of another view, and what is no part at all."
    here = platform.node()
    kept = parts(tmp_path, f'.view.{here}-{os.getppid()}.part', f'.view.elsewhere-{ended}.part', f'.other.{here}-{ended}.part',
                 f'.view.{here}-x.part', f'.view.{here}-.part', f'.view.{here}-{ended}', f'.view.{here}-{"9"*40}.part',
                 f'.view.{here}-0{ended}.part')
    (outside := tmp_path/'outside').mkdir()
    (outside/'a').write_text('a')
    link = tmp_path/f'.view.{here}-{ended}.part'
    link.symlink_to(outside)
    build_view(tiny/'coco', tmp_path/'view')
    assert all(p.is_dir() for p in kept) and (outside/'a').is_file()


def test_a_killed_build_is_cleared_away_by_the_next(tiny, tmp_path):
    "kill -9 in the middle of it."
    code = ('import os, signal, sys; from yolov10_qat.data import view; '
            'view.finish_view = lambda *a: os.kill(os.getpid(), signal.SIGKILL); '
            'view.build_view(sys.argv[1], sys.argv[2])')
    done = subprocess.run([sys.executable, '-c', code, tiny/'coco', tmp_path/'view'], timeout=300)
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    build_view(tiny/'coco', tmp_path/'view')
    assert [p.name for p in tmp_path.iterdir()] == ['view']


# --- the optimizer of a checkpoint --------------------------------------------------------------------------------------

def stepped(kind, **how):
    "An optimizer of two groups after a step."
    weights = [torch.nn.Parameter(torch.zeros(*shape)) for shape in ((2, 3), (3,), (4, 1))]
    made = kind([dict(params=weights[:2]), dict(params=weights[2:], lr=.2, param_group='step')], lr=.1, **how)
    for p in weights: p.grad = torch.ones_like(p)
    made.step()
    return made


def restore(optimizer, stored):
    FloatTrainer._restore_optimizer(SimpleNamespace(optimizer=optimizer, last=Path('last.pt')), stored)


KINDS = [(torch.optim.Adam, {}), (torch.optim.AdamW, {}), (torch.optim.SGD, dict(momentum=.9)), (torch.optim.SGD, {}),
         (torch.optim.NAdam, {}), (torch.optim.RMSprop, {})]

@pytest.mark.parametrize('kind, how', KINDS)
def test_its_own_state_fits(kind, how):
    made = stepped(kind, **how)
    stored = made.state_dict()
    restore(stepped(kind, **how), stored)
    fresh = kind([dict(params=g['params'], lr=g['lr'], param_group='x') for g in made.param_groups], lr=.1, **how)
    fresh.param_groups[0].pop('param_group')
    assert optimizer_misfit(stored, fresh) == ''


def first(state): return next(iter(state['state'].values()))
ODD = {
    'no group': (lambda s: s['param_groups'].clear(), 'param_groups: 0 there, 2 in this run'),
    'no params': (lambda s: s['param_groups'][0].pop('params'), 'param_groups.0.params: no list there'),
    'too few': (lambda s: s['param_groups'][1].update(params=[]), 'param_groups.1.params: 0 there, 1 in this run'),
    'odd numbers': (lambda s: s['param_groups'][1].update(params=['x']), 'param_groups: the numbers of params'),
    'twice': (lambda s: s['param_groups'][1].update(params=[0]), 'param_groups: the numbers of params'),
    'word': (lambda s: s['param_groups'][0].update(lr='1\n2'), r'param_groups.0.lr: 1\n2 there, 0.1 in this run'),
    'nan': (lambda s: s['param_groups'][0].update(lr=float('nan')), 'param_groups.0.lr: nan there'),
    'true': (lambda s: s['param_groups'][0].update(eps=True), 'param_groups.0.eps: True there'),
    'missing': (lambda s: s['param_groups'][1].pop('weight_decay'), 'param_groups.1.weight_decay is missing'),
    'betas': (lambda s: s['param_groups'][0].update(betas=(.9,)), 'param_groups.0.betas: (0.9,) there, (0.9, 0.999)'),
    'switch': (lambda s: s['param_groups'][0].update(amsgrad='x'), 'param_groups.0.amsgrad: x there, False in this run'),
    'unknown': (lambda s: s['state'].update({3: {}}), 'state.3 is no parameter, there are 3'),
    'negative': (lambda s: s['state'].update({-1: {}}), 'state.-1 is no parameter'),
    'lost': (lambda s: first(s).pop('exp_avg'), "state.0: ['exp_avg_sq', 'step'] there"),
    'shape': (lambda s: first(s).update(exp_avg=torch.zeros(3, 2)), 'state.0.exp_avg: shape [3, 2], torch.float32 there'),
    'type': (lambda s: first(s).update(exp_avg=torch.zeros(2, 3, dtype=torch.int64)), 'state.0.exp_avg: shape [2, 3], torch.int64'),
    'list': (lambda s: first(s).update(exp_avg=[0.]*6), 'state.0.exp_avg: [0.0, 0.0'),
}

@pytest.mark.parametrize('case', ODD)
def test_what_does_not_fit_is_named(case):
    "File and field in one line, and what to do; torch itself says nothing of most of them, or fails steps later."
    change, words = ODD[case]
    made = stepped(torch.optim.Adam)
    stored = copy.deepcopy(made.state_dict())
    change(stored)
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(CheckpointError) as caught: restore(made, stored)
    said = str(caught.value)
    assert said.startswith('last.pt does not fit this run: optimizer.') and words in said and '\n' not in said
    assert 'move it away' in said and len(said) < 500
    assert str(before) == str(made.state_dict())


def test_switches_of_other_versions_of_torch_are_let_be():
    made = stepped(torch.optim.Adam)
    stored = copy.deepcopy(made.state_dict())
    for group in stored['param_groups']: group.pop('maximize', None), group.update(new_switch=None)
    restore(made, stored)
