"Every flag of the command line does something: a run's reach its configuration, and only theirs; the others are in a test or in the README."
import re
from pathlib import Path

import pytest
import typer

from places import ROOT
from yolov10_qat import cli
from yolov10_qat.core.config import RunConfig

# a value that is not the default, and what else a run needs for it
OTHER = {
    'variant': 'yolo10s', 'method': 'baseline', 'profile': 'short', 'seed': 7, 'device': 'cuda:1', 'run_root': 'runs/other',
    'coco_root': 'data', 'train_split': 'a', 'val_split': 'b', 'base': 'demo', 'imgsz': 320, 'epochs': 9, 'batch': 3,
    'workers': 2, 'amp': 'bf16', 'train_max_images': 11, 'val_max_images': 12, 'fraction': .5, 'quantize': False,
    'weight_bits': 3, 'quantize_from_epoch': 1, 'bits_schedule': '32:0,4:1', 'granularity': 'per_tensor', 'scale': 'learned',
    'scale_init': 'absmax', 'quantizer': 'stock', 'scale_lr': .002, 'init_ptq': 'gptq', 'keep_layers': 'auto:4kB',
    'first_last_bits': 8, 'quantize_dfl': True, 'bn': 'freeze', 'bn_batches': 5, 'head_loss': 'ultralytics',
    'recipe': 'scratch', 'lr0': .003, 'lrf': .2, 'weight_decay': .001, 'warmup_epochs': 1., 'mosaic': .5,
    'oscillation_momentum': .1, 'oscillation_threshold': .01, 'oscillation_interval': 2, 'ema_decay': .9, 'ema_tau': 20.,
    'dampen_lambda': .2, 'dampen_aggregation': 'kernel_mean', 'dampen_start': .1, 'dampen_end': .9, 'freeze_threshold': .02,
    'freeze_threshold_start': .2, 'freeze_start': .1, 'freeze_end': .9, 'qc_scope': 'backbone', 'qc_epochs': 2, 'qc_lr': .01,
    'save_period': 4, 'keep_snapshots': 2, 'snapshot_optimizer': False, 'gate_root': 'runs', 'ungated': True,
}
BESIDE = {'init_ptq': ['--scale', 'learned'], 'scale_init': ['--scale', 'learned'], 'scale_lr': ['--scale', 'learned'],
          'quantize': ['--method', 'baseline'], 'amp': ['--device', '0'], 'bits_schedule': ['--scale', 'learned']}
FOLLOW = {'profile', 'recipe'}  # settings that bring others with them


def flag(name, value):
    word = name.replace('_', '-')
    if isinstance(value, bool): return [f'--{"" if value else "no-"}{word}']
    return [f'--{word}', str(value)]


@pytest.fixture
def resolved(monkeypatch):
    "The configuration that a command line means; nothing starts."
    seen = []
    monkeypatch.setattr(cli, '_start', lambda settings, resume, *_: seen.append(settings) or 0)

    def ask(*words):
        seen.clear()
        with pytest.raises(SystemExit) as end: cli.main(['run', '--epochs', '5', '--warmup-epochs', '0', *words])
        assert end.value.code == 0, words
        return seen[0].model_dump()
    return ask


def test_the_table_knows_every_setting(): assert set(OTHER) == set(RunConfig.model_fields)


@pytest.mark.parametrize('name', RunConfig.model_fields)
def test_a_flag_of_a_run_reaches_its_setting_alone(name, resolved):
    before, after = (resolved(*BESIDE.get(name, []), *more) for more in ([], flag(name, OTHER[name])))
    if isinstance(OTHER[name], str) and name in ('run_root', 'coco_root', 'gate_root'):
        assert Path(after[name]).name == Path(OTHER[name]).name
    else: assert after[name] == OTHER[name]
    changed = {k for k in before if before[k] != after[k]}
    assert name in changed and (name in FOLLOW or changed == {name})


def commands(group, path=()):
    "Every command with the words that lead to it."
    for name, command in group.commands.items():
        if hasattr(command, 'commands'): yield from commands(command, (*path, name))
        else: yield (*path, name), command


def options(command):
    "Long flags of a command that are no settings of a run, `--help` aside."
    return [flag for p in command.params if p.param_type_name == 'option' and p.name not in RunConfig.model_fields
            for flag in (*p.opts, *p.secondary_opts) if flag.startswith('--') and flag != '--help']


ASKED = [(path, flag) for path, command in commands(typer.main.get_command(cli.app)) for flag in options(command)]


def calls():
    "What follows the name of a command in tests and README, as words: a call ends with its bracket or line."
    text = '\n'.join(p.read_text(encoding='utf-8') for p in [ROOT/'README.md', *Path(__file__).parent.glob('test_*.py')])
    return text


@pytest.mark.parametrize('path, flag', ASKED, ids=lambda v: v if isinstance(v, str) else ' '.join(v))
def test_a_flag_of_another_command_is_used(path, flag):
    "Within the call that names the command, not somewhere in the tests."
    assert used(path[-1], flag, calls()), f'no test and no line of the README gives {flag} to {" ".join(path)}'
