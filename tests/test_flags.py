"Every flag of the command line does something: a run's reach its configuration, and only theirs; the others are in a test or in the README."
import re
from pathlib import Path

import pytest
import typer

from fake_run import make_run
from places import ROOT
from tiny import tiny_coco
from yolov10_qat import cli
from yolov10_qat.core.config import RunConfig

# a value that is not the default, and what else a run needs for it
OTHER = {
    'variant': 'yolo10s', 'method': 'baseline', 'profile': 'short', 'seed': 7, 'device': 'cuda:1', 'run_root': 'runs/other',
    'coco_root': 'data', 'train_split': 'a', 'val_split': 'b', 'base': 'demo', 'imgsz': 320, 'epochs': 9, 'batch': 3,
    'workers': 2, 'amp': 'bf16', 'train_max_images': 11, 'val_max_images': 12, 'fraction': .5, 'quantize': False, 'selection': .2,
    'weight_bits': 3, 'quantize_from_epoch': 1, 'bits_schedule': '32:0,4:1', 'granularity': 'per_tensor', 'group_size': 16, 'scale': 'learned',
    'scale_init': 'absmax', 'quantizer': 'stock', 'scale_lr': .002, 'init_ptq': 'gptq', 'keep_layers': 'auto:4kB',
    'average_bits': 4.5, 'max_loss': 1.5, 'first_last_bits': 8, 'quantize_dfl': True, 'bn': 'freeze', 'bn_batches': 5, 'head_loss': 'ultralytics',
    'recipe': 'scratch', 'lr0': .003, 'lrf': .2, 'weight_decay': .001, 'warmup_epochs': 1., 'mosaic': .5,
    'oscillation_momentum': .1, 'oscillation_threshold': .01, 'oscillation_interval': 2, 'ema_decay': .9, 'ema_tau': 20.,
    'dampen_lambda': .2, 'dampen_aggregation': 'kernel_mean', 'dampen_start': .1, 'dampen_end': .9, 'freeze_threshold': .02,
    'freeze_threshold_start': .2, 'freeze_start': .1, 'freeze_end': .9, 'qc_scope': 'backbone', 'qc_epochs': 2, 'qc_lr': .01,
    'save_period': 4, 'keep_snapshots': 2, 'snapshot_optimizer': False, 'gate_root': 'runs', 'ungated': True,
}
BESIDE = {'group_size': ['--granularity', 'per_group'], 'fraction': ['--train-max-images', '0'], 'init_ptq': ['--scale', 'learned'],
          'max_loss': ['--scale', 'learned', '--init-ptq', 'closed', '--selection', '.1'], 'scale_init': ['--scale', 'learned'], 'scale_lr': ['--scale', 'learned'],
          'quantize': ['--method', 'baseline'], 'amp': ['--device', '0'], 'bits_schedule': ['--scale', 'learned']}
FOLLOW = {'profile', 'recipe'}  # settings that bring others with them
# a method is named, or one flag more would mean another way of training
PLAIN = ['run', '--epochs', '5', '--warmup-epochs', '0', '--method', 'ema']


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
        with pytest.raises(SystemExit) as end: cli.main([*PLAIN, *words])
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


def options(command, runs):
    "Long flags of a command, `--help` and, where it starts runs, their settings aside."
    return [flag for p in command.params if p.param_type_name == 'option' and not (runs and p.name in RunConfig.model_fields)
            for flag in (*p.opts, *p.secondary_opts) if flag.startswith('--') and flag != '--help']


TESTS = sorted(Path(__file__).parent.glob('test_*.py'))
FILE = ROOT/'tests'/'examples'/'checkpoint-v1.pt'
# command -> (what it calls, words that it needs)
CALLED = {
    'dataset': ('data.view.build_view', ['--coco-root', '{coco}', '--out', 'o']),
    'dataset --demo': ('data.scenes.write_scenes', ['--out', 'o']),
    'eval': ('deploy.detectors.evaluate_file', [FILE, '--coco-root', '{coco}']),
    'sensitivity': ('studies.sensitivity.study', ['demo', '--coco-root', '{coco}', '--out', 'o']),
    'ptq': ('studies.ptq_ladder.run_ladder', ['demo', '--coco-root', '{coco}', '--out', 'o']),
    'export': ('deploy.export.export_checkpoint', [FILE, '--out', 'o.safetensors']),
    'publish': ('pipeline.publish.publish', ['{run}', '--name', 'n']),
    'summarize': ('pipeline.launch.summarize', ['{run}', '--out', 'o']),
    'sweep': ('sweep.sweep.sweep', ['{plan}', '--out', 'o']),
}
# flag -> its word, and what the call gets
GIVEN = {'--out': ('o2.safetensors', 'o2.safetensors'), '--coco-root': ('{other}', '{other}'), '--train-max-images': ('3', 3), '--val-max-images': ('2', 2),
         '--seed': ('13', 13), '--train-split': ('a', 'a'), '--val-split': ('a', 'a'), '--side': ('64', 64), '--imgsz': ('96', 96),
         '--batch': ('5', 5), '--device': ('cuda:1', 'cuda:1'), '--weights': ('raw', 'raw'), '--budget': ('4kB', 4000),
         '--variant': ('yolo10s', 'yolo10s'), '--weight-bits': ('3', 3), '--granularity': ('per_tensor', 'per_tensor'), '--group-size': ('24', 24),
         '--method': ('rtn', ['rtn']), '--calibration-images': ('7', 7), '--average-bits': ('4.5,4', [4., 4.5]), '--max-loss': ('2.5', 2.5), '--format': ('onnx-qcdq', 'onnx-qcdq'),
         '--head': ('raw', 'raw'), '--opset': ('22', 22), '--dynamic': (None, True), '--name': ('m', 'm'),
         '--checkpoints': ('best,last', ['best', 'last']), '--incomplete': (None, True), '--address': ('h:1', 'h:1'), '--resume': (None, True)}
WITH = {'--group-size': ['--granularity', 'per_group'], '--format': ['--out', 'o.onnx', '--format', 'onnx-int4'], '--head': ['--out', 'o.onnx', '--format', 'onnx-int4'],
        '--opset': ['--out', 'o.onnx', '--format', 'onnx-int4'], '--dynamic': ['--out', 'o.onnx', '--format', 'onnx-int4']}
ELSEWHERE = {'run': {'--config', '--resume'}, 'demo': {'--run-root'}, 'scratch': {'--config', '--resume'}, 'sweep': {'--dry-run'}}  # tests that start runs
PAINTS = {'--train-max-images', '--val-max-images', '--seed', '--side', '--out'}


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "Two data sets with the same splits under two names each, and a run."
    folder = tmp_path_factory.mktemp('flags')
    for name in ('coco', 'other'):
        tiny_coco(folder/name)
        (folder/name/'a').symlink_to('train2017')
        (folder/name/'annotations/instances_a.json').symlink_to('instances_train2017.json')
    make_run(folder/'run')
    (folder/'plan').write_text('{base: {profile: demo}, grid: {seed: [0]}}')
    return {name: str(folder/name) for name in ('coco', 'other', 'run', 'plan')}


@pytest.fixture
def given_to(places, tmp_path, monkeypatch):
    "What a command hands to the function that does its work."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('yolov10_qat.pipeline.stages.check_device', lambda device: None)

    def ask(command, *words):
        name, needs = CALLED[command]
        seen = []
        def instead(*args, **kw):
            seen.append([*args, *kw.values()])
            raise ValueError('seen')
        monkeypatch.setattr(f'yolov10_qat.{name}', instead)
        line = [str(w).format(**places) for w in (*command.split(), *needs, *words)]
        with pytest.raises(SystemExit): cli.main(line)
        assert seen, line
        return [str(v) if isinstance(v, Path) else v for v in seen[0]]
    return ask


def asked():
    "Commands and their flags, painting apart from selecting."
    for path, command in commands(typer.main.get_command(cli.app)):
        for flag in options(command, path[0] in ('run', 'scratch')):
            if flag == '--demo' or flag in ELSEWHERE.get(path[0], ()): continue
            if flag != '--side': yield ' '.join(path), flag
            if path[0] == 'dataset' and flag in PAINTS: yield 'dataset --demo', flag


@pytest.mark.parametrize('command, flag', [*asked()])
def test_a_flag_of_another_command_reaches_what_works(command, flag, given_to, places):
    word, expected = GIVEN[flag]
    if isinstance(expected, str): expected = expected.format(**places)
    more = WITH.get(flag, [])
    before, after = given_to(command, *more), given_to(command, *more, flag, *([word] if word else []))
    assert expected in after and expected not in before


@pytest.mark.parametrize('command, flag', [(c, f) for c, flags in ELSEWHERE.items() for f in sorted(flags)])
def test_a_flag_that_starts_a_run_is_in_a_test(command, flag):
    "They need a run; that it works is asked there."
    lines = [line for p in TESTS for line in re.sub(r',\n\s*', ', ', p.read_text(encoding='utf-8')).splitlines()]
    assert any(f"'{command}'" in line and f"'{flag}'" in line for line in lines)


def test_version_is_asked_for(capsys):
    with pytest.raises(SystemExit): cli.main(['--version'])
    assert capsys.readouterr().out.startswith('yolov10-qat ')
