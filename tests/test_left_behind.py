"What killed processes and strangers leave: parts of a data set are cleared away, an optimizer that does not fit is named."
import copy
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import optimizer_misfit
from yolov10_qat.data import view
from yolov10_qat.data.view import build_view
from yolov10_qat.train.float_trainer import _restore_optimizer

# --- parts of a data set ------------------------------------------------------------------------------------------------


def left(folder, *names, lock='.lock'):
    "What processes left that are no more, by the view's name and a word of their own."
    for name in names:
        (folder/f'{name}.part'/'images').mkdir(parents=True)
        if lock: (folder/f'{name}{lock}').touch()
    return [folder/f'{name}.part' for name in names]


def names(folder): return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize('name', ['view', 'a [view]*', '{view}'])
def test_a_part_of_a_killed_process_goes(tiny, tmp_path, name):
    left(tmp_path, f'.{name}.0a1b2c3d', f'.{name}.x')
    build_view(tiny/'coco', tmp_path/name)
    assert names(tmp_path) == [name]


def test_other_folders_stay(tiny, tmp_path):
    "Of a process that writes, here or on a machine that shares the folder; of another view; and what is no part at all."
    kept = left(tmp_path, '.other.x', '.viewx.x', 'view.x', '.view') + left(tmp_path, '.view.y', lock='.lck')
    written, = left(tmp_path, '.view.w')
    (outside := tmp_path/'outside').mkdir()
    (outside/'a').write_text('a')
    (tmp_path/'.view.z.part').symlink_to(outside)
    (tmp_path/'.view.z.lock').touch()
    with open(written.with_suffix('.lock')) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_view(tiny/'coco', tmp_path/'view')
        assert all(p.is_dir() for p in [*kept, written]) and (outside/'a').is_file()
    (tmp_path/'view').rename(tmp_path/'old')
    build_view(tiny/'coco', tmp_path/'view')
    assert not written.exists() and all(p.is_dir() for p in kept) and (outside/'a').is_file()


def test_two_that_build_at_once_leave_each_other_alone(tiny, tmp_path, monkeypatch):
    "The second clears up, builds and is done while the first still writes."
    finish, first = view.finish_view, []
    def second_comes(made, request, out):
        if not first:
            first.append(out)
            build_view(tiny/'coco', tmp_path/'view')
            assert out.is_dir()
        return finish(made, request, out)
    monkeypatch.setattr(view, 'finish_view', second_comes)
    assert build_view(tiny/'coco', tmp_path/'view').root == tmp_path/'view'
    assert names(tmp_path) == ['view'] and first


@pytest.mark.parametrize('fails', [OSError(37, 'No locks available'), None])
def test_without_locks_nothing_is_cleared_away(tiny, tmp_path, monkeypatch, fails):
    "As on some network disks; a view is built all the same, and what it wrote is gone after an error."
    def no_lock(*_): raise OSError(37, 'No locks available')
    monkeypatch.setattr(view.fcntl, 'flock', no_lock)
    kept, = left(tmp_path, '.view.x')
    if fails:
        monkeypatch.setattr(view, 'finish_view', lambda *_: no_lock())
        with pytest.raises(OSError, match='No locks'): build_view(tiny/'coco', tmp_path/'view')
    else: build_view(tiny/'coco', tmp_path/'view')
    assert kept.is_dir() and names(tmp_path) == ['.view.x.lock', '.view.x.part', *([] if fails else ['view'])]


def test_a_killed_build_is_cleared_away_by_the_next(tiny, tmp_path):
    "kill -9 in the middle of it."
    code = ('import os, signal, sys; from yolov10_qat.data import view; '
            'view.finish_view = lambda *a: os.kill(os.getpid(), signal.SIGKILL); '
            'view.build_view(sys.argv[1], sys.argv[2])')
    done = subprocess.run([sys.executable, '-c', code, tiny/'coco', tmp_path/'view'], timeout=300)
    assert done.returncode == -9 and len(names(tmp_path)) == 2
    build_view(tiny/'coco', tmp_path/'view')
    assert names(tmp_path) == ['view']


# --- the optimizer of a checkpoint --------------------------------------------------------------------------------------

def stepped(kind, **how):
    "An optimizer of two groups after a step."
    weights = [torch.nn.Parameter(torch.zeros(*shape)) for shape in ((2, 3), (3,), (4, 1))]
    made = kind([dict(params=weights[:2]), dict(params=weights[2:], lr=.2, param_group='step')], lr=.1, **how)
    for p in weights: p.grad = torch.ones_like(p)
    made.step()
    return made


def restore(optimizer, stored): _restore_optimizer(optimizer, stored, Path('last.pt'))


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
