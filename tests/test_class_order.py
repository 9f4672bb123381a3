"A model whose classes stand in another order than those of the data gives the same numbers everywhere, and says so; other classes are refused."
import pytest
import torch
from torch.testing import assert_close

from yolov10_qat.checkpoint.base_weights import SHIPPED
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import (
    build_model,
    load_base,
    load_checkpoint,
    network,
    open_base,
    read_base,
    save_base,
    save_checkpoint,
)
from yolov10_qat.cli import main
from yolov10_qat.core.class_order import match_classes, rows_in_order
from yolov10_qat.core.config import VARIANTS, RunConfig
from yolov10_qat.data.scenes import write_scenes
from yolov10_qat.data.view import build_view
from yolov10_qat.deploy.detectors import evaluate_file
from yolov10_qat.deploy.export import export_checkpoint
from yolov10_qat.deploy.packed import read_packed
from yolov10_qat.evaluate.heads import HEADS, evaluate
from yolov10_qat.quant.layers import plan, quantize
from yolov10_qat.studies.ptq_ladder import load_ladder, run_ladder
from yolov10_qat.studies.sensitivity import study

STATE, HEADER = load_base(SHIPPED)
NAMES = HEADER['names']
TURNED = sorted(NAMES, reverse=True)  # another order, of which nobody is the mirror of itself
ORDER = tuple(NAMES.index(n) for n in TURNED)


def turned_network():
    "The demo's base with its rows in the order of `TURNED`, moved here by hand."
    model = network(VARIANTS['yolo10n'], dict(enumerate(TURNED)))
    model.load_state_dict(STATE)
    head = model.model[-1]
    with torch.no_grad():
        for branch in (*head.cv3, *head.one2one_cv3):
            last = branch[-1]
            last.weight.copy_(torch.stack([last.weight[i] for i in ORDER]))
            last.bias.copy_(torch.stack([last.bias[i] for i in ORDER]))
    return model.eval()


def checkpoint(path, model, manifest=(), names=None):
    return save_checkpoint(path, dict(epoch=1, optimizer=None, train_args=dict(imgsz=160), ema_updates=0, resume={},
                                      ema_state_dict=None, model_state_dict=model.state_dict(), model_yaml=model.yaml,
                                      names=names or model.names, manifest=list(manifest)))


def quantised(path, model):
    manifest = plan(model)
    return checkpoint(path, quantize(model, manifest), manifest)


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('order')


@pytest.fixture(scope='module')
def scenes(folder): return write_scenes(folder/'coco', 2, 8, side=160)


@pytest.fixture(scope='module')
def view(folder, scenes): return build_view(scenes, folder/'dataset')


@pytest.fixture(scope='module')
def bases(folder):
    "The same turned network in each kind of file that a run can start from."
    torch.save(dict(model=turned_network(), ema=None, train_args=dict(imgsz=160)), folder/'turned-ultralytics.pt')
    return {'safetensors': save_base(folder/'turned.safetensors', turned_network(), 'yolo10n', HEADER['facts']),
            'ultralytics': folder/'turned-ultralytics.pt',
            'checkpoint': checkpoint(folder/'turned-float.pt', turned_network()),
            'quantised': quantised(folder/'turned-4bit.pt', turned_network())}


@pytest.fixture(scope='module')
def plain(view): return open_base(SHIPPED, 'yolo10n', view.names)


@pytest.mark.parametrize('kind', ['safetensors', 'ultralytics', 'checkpoint', 'quantised'])
def test_every_base_gives_the_same_network(bases, plain, kind):
    told = []
    model = open_base(bases[kind], 'yolo10n', NAMES, told.append)
    assert_close(dict(model.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    assert list(model.names.values()) == NAMES and read_base(bases[kind]).imgsz == 160
    assert len(told) == 1 and told[0].startswith(f'{bases[kind].name}: ') and 'were matched by name' in told[0]


def test_same_logits_and_same_ap(bases, plain, view):
    model, images = open_base(bases['safetensors'], 'yolo10n', NAMES), torch.rand(2, 3, 96, 96)
    with torch.no_grad(): ours, theirs = model(images)[1], plain(images)[1]
    for head in HEADS: assert_close(ours[head]['scores'], theirs[head]['scores'], rtol=0, atol=0)
    ours, theirs = evaluate(model, view, 160), evaluate(plain, view, 160)
    assert theirs['one2one'].pycocotools['AP'] > .1
    for head in HEADS:
        assert abs(ours[head].pycocotools['AP'] - theirs[head].pycocotools['AP']) < 1e-9


@pytest.fixture(scope='module')
def files(folder, scenes):
    "The turned network as a checkpoint and as exported files."
    file = quantised(folder/'turned.pt', turned_network())
    made = dict(packed='turned-packed.safetensors')
    made |= {head: f'turned-{head}.onnx' for head in ('one2one', 'raw', 'one2many')}
    for head, name in made.items():
        kind = dict(format='packed') if head == 'packed' else dict(format='onnx-int4', output=head)
        export_checkpoint(file, folder/name, coco_root=scenes, **kind)
    return {'checkpoint': file} | {k: folder/name for k, name in made.items()}


@pytest.mark.parametrize('kind', ['checkpoint', 'packed', 'one2one', 'raw', 'one2many'])
def test_eval_counts_as_the_data_do(files, folder, scenes, kind):
    "A file of the turned network against the checkpoint of the plain one."
    plain = quantised(folder/'plain.pt', open_base(SHIPPED, 'yolo10n', NAMES))
    exact, told = kind == 'checkpoint', []
    ours, words = evaluate_file(files[kind], scenes, tell=told.append)
    if exact: theirs, _ = evaluate_file(plain, scenes)
    else:
        suffix = files[kind].suffix
        how = dict(format='packed') if kind == 'packed' else dict(format='onnx-int4', output=kind)
        export_checkpoint(plain, folder/f'plain-{kind}{suffix}', coco_root=scenes, **how)
        theirs, _ = evaluate_file(folder/f'plain-{kind}{suffix}', scenes)
    assert len(told) == 1 and 'were matched by name' in told[0] and '160 pixels' in words
    for head in theirs:
        assert theirs[head].pycocotools['AP'] > .05
        assert abs(ours[head].pycocotools['AP'] - theirs[head].pycocotools['AP']) < (1e-9 if exact else 1e-4)


def test_the_ladder_says_it(bases, folder, scenes):
    told, how = [], dict(methods=['rtn'], calibration=2, batch=4)
    turned = run_ladder(bases['safetensors'], scenes, folder/'ladder-turned', tell=told.append, **how)
    plain = run_ladder(SHIPPED, scenes, folder/'ladder-plain', tell=told.append, **how)
    assert len(told) == 1 and turned.class_order == told[0] and plain.class_order is None
    assert load_ladder(folder/'ladder-turned').class_order == told[0]
    assert 'were matched by name' in (folder/'ladder-turned'/'report.html').read_text()
    assert turned.settings.imgsz == 160
    for ours, theirs in zip(turned.steps, plain.steps, strict=True): assert ours.one2one == theirs.one2one
    assert plain.steps[0].one2one['AP'] > .1


def test_sensitivity_measures_the_same(bases, folder, scenes):
    told, how = [], dict(max_images=2, batch=2, imgsz=64, granularity='per_tensor')
    turned = study(bases['safetensors'], scenes, folder/'study-turned', 4000, tell=told.append, **how)
    plain = study(SHIPPED, scenes, folder/'study-plain', 4000, **how)
    assert len(told) == 1 and turned.chosen == plain.chosen
    assert turned.table.equals(plain.table)


def test_a_run_trains_the_same_and_records_it(bases, folder, scenes, plain, monkeypatch):
    from yolov10_qat.pipeline import experiment
    from yolov10_qat.runs.summary import load_summary
    said = []
    monkeypatch.setattr(experiment, 'log_note', said.append)
    config = RunConfig(run_root=str(folder/'run'), coco_root=str(scenes), base=str(bases['ultralytics']), imgsz=64, epochs=1,
                       batch=2, method='baseline', train_max_images=2, val_max_images=2, scale='learned', init_ptq='rtn')
    run = experiment.Experiment(config)
    try:
        run.prepare()
        assert_close(dict(run.base.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
        noted = [line for line in said if 'were matched by name' in line]
        assert len(noted) == 1 and load_summary(folder/'run').model.class_order == noted[0]
        file = experiment.calibrated(run.base, run.manifest, run.config, run.root)
        start = build_model(load_checkpoint(file))
        trainer = experiment.trainer_of(run.config, run.root)
        trainer.setup_model()
        state = trainer.model.state_dict()
        rows = [k for k in plain.state_dict() if k.endswith('.2.weight') and 'cv3' in k]
        assert len(rows) == 6
        for k in rows:  # what calibration and training start from is in the order of the data
            assert_close(start.state_dict()[k], plain.state_dict()[k], rtol=0, atol=0)
            assert_close(state[k], plain.state_dict()[k], rtol=0, atol=0)
        assert list(start.names.values()) == list(trainer.data['names'].values()) == NAMES
    finally: run.lock.release()


def refused(capsys, *words):
    "The line of a command that is refused, in this process."
    with pytest.raises(SystemExit) as end: main([str(w) for w in words])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert end.value.code == 1 and len(lines) == 1
    return lines[0]


@pytest.mark.parametrize('words', [('eval',), ('export', '--out', 'x.safetensors'), ('ptq', '--method', 'rtn', '--out', 'out'),
                                   ('sensitivity', '--out', 'out')], ids=lambda w: w[0])
def test_other_names_are_refused(folder, scenes, capsys, words, monkeypatch):
    monkeypatch.chdir(folder)
    names = dict(enumerate(['unicorn', *NAMES[1:]]))
    file = quantised(folder/'unicorn.pt', network(VARIANTS['yolo10n'], names))
    line = refused(capsys, words[0], file, '--coco-root', scenes, *words[1:])
    assert f'has other classes than the data: unicorn, {NAMES[1]}, ' in line and f'{NAMES[0]}, {NAMES[1]}, ' in line
    assert f'1 of {len(NAMES)} are not there' in line
    assert not (folder/'out').exists() and not (folder/'x.safetensors').exists()


def test_another_count_is_refused(folder, scenes, capsys):
    file = checkpoint(folder/'two.pt', network(VARIANTS['yolo10n'], {0: 'a', 1: 'b'}))
    assert f'knows 2 classes, the data has {len(NAMES)}' in refused(capsys, 'eval', file, '--coco-root', scenes)


@pytest.mark.parametrize('names', ['{}', 'class{}', 'class_{}', 'Class {}', 'cls-{}'])
def test_a_model_that_names_nothing_is_taken_as_it_stands(folder, plain, names):
    told = []
    file = checkpoint(folder/'unnamed.pt', plain, names={i: names.format(i) for i in range(len(NAMES))})
    model = open_base(file, 'yolo10n', NAMES, told.append)
    assert_close(dict(model.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    assert len(told) == 1 and 'does not name its classes' in told[0] and NAMES[0] in told[0]


LOOSE = [(['Traffic_Light', 'dog'], ['dog', 'traffic light'], (1, 0)), (['A', 'a', 'b'], ['b', 'a', 'A'], (2, 1, 0)),
         (['1', '0'], ['0', '1'], (1, 0)), (['stop-sign', 'STOP'], ['stop', 'stop sign'], (1, 0)), (['a', 'B'], ['a', 'b'], None)]

@pytest.mark.parametrize('have, want, order', LOOSE)
def test_spelling(have, want, order): assert match_classes(have, want, 'm').order == order


AMBIGUOUS = [(['a', 'A'], ['A_', 'a-']), (['a', 'a'], ['a', 'b']), (['x', 'y'], ['x', 'x']), (['a b', 'ab'], ['a_b', 'A-B']),
             (['2', '3'], ['a', 'b']), (['0', 'dog'], ['cat', 'dog']), (['1', '0'], ['a', 'b'])]

@pytest.mark.parametrize('have, want', AMBIGUOUS)
def test_what_is_not_clear_is_refused(have, want):
    with pytest.raises(CheckpointError, match='has other classes than the data'): match_classes(have, want, 'm', CheckpointError)


def test_names_of_a_mapping_go_by_row():
    assert match_classes({1: 'b', 0: 'a'}, ['a', 'b'], 'm') == (None, '')
    assert match_classes({i: str(i)*2 for i in range(11)}, [str(i)*2 for i in range(11)], 'm').order is None


def test_errors_have_the_path_and_notes_the_name():
    "A note is part of reports, which are passed on; an error is for who has the file."
    for have in (['b', 'a'], ['A', 'b'], ['0', '1']):
        note = match_classes(have, ['a', 'b'], 'ann/weights/base.pt').note
        assert note.startswith('base.pt') and 'ann' not in note
        assert match_classes(have, ['a', 'b'], 'this model').note.startswith('this model')
    for have in (['a'], ['a', 'c']):
        with pytest.raises(ValueError, match='^ann/weights/base.pt '): match_classes(have, ['a', 'b'], 'ann/weights/base.pt')


def test_names_are_shown_escaped_and_shortened():
    with pytest.raises(ValueError) as error: match_classes(['\x1b[2Kx\n']*40, [f'n{i}'*60 for i in range(40)], 'm')
    assert '\x1b' not in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 1000


def test_only_class_rows_move():
    model, head = turned_network().state_dict(), f'model.{len(turned_network().model)-1}'
    back = tuple(TURNED.index(n) for n in NAMES)
    moved = {k for k, v in rows_in_order(model, back).items() if not v.equal(model[k])}
    assert moved == {f'{head}.{cv}.{i}.2.{part}' for cv in ('cv3', 'one2one_cv3') for i in range(3) for part in ('weight', 'bias')}
    assert all(v.equal(STATE[k]) for k, v in rows_in_order(model, back).items())


def test_the_size_it_was_trained_at(files, folder, scenes, capsys):
    "Each file says it; eval takes it and says so; an old packed file says nothing."
    for kind in ('checkpoint', 'packed'):
        with pytest.raises(SystemExit): main(['eval', str(files[kind]), '--coco-root', str(scenes), '--val-max-images', '2'])
        assert 'inputs: 160 pixels, as it was trained' in capsys.readouterr().out
    assert read_packed(files['packed'])[0]['imgsz'] == 160
    with pytest.raises(SystemExit): main(['eval', str(files['packed']), '--coco-root', str(scenes), '--imgsz', '96'])
    assert 'inputs: 96 pixels; as narrow' in capsys.readouterr().out


@pytest.mark.parametrize('said, side', [({}, 640), (dict(imgsz=96), 96)])
def test_a_size_that_is_none(folder, scenes, plain, said, side):
    content = load_checkpoint(checkpoint(folder/'side.pt', plain)) | dict(train_args=said)
    file = save_checkpoint(folder/'side.pt', content)
    _, words = evaluate_file(file, scenes, val_max_images=1)
    assert words.startswith(f'{side} pixels') and ('as it was trained' in words) == (side == 96)


@pytest.mark.parametrize('command, given, side', [('ptq', [], 160), ('ptq', ['--imgsz', 96], 96), ('sensitivity', [], 160),
                                                  ('sensitivity', ['--imgsz', 96], 96)])
def test_studies_take_the_size_of_their_base(bases, scenes, tmp_path, monkeypatch, capsys, command, given, side):
    from yolov10_qat.studies import ptq_ladder, sensitivity
    seen = {}
    def stop(*_, **how):
        seen.update(how)
        raise ValueError('seen')
    monkeypatch.setattr(ptq_ladder, 'run_ladder', stop)
    monkeypatch.setattr(sensitivity, 'study', stop)
    refused(capsys_keeping(capsys, seen), command, bases['ultralytics'], '--coco-root', scenes, '--out', tmp_path/'out', *given)
    assert seen['imgsz'] == side and f'imgsz={side} ' in seen['out']


class capsys_keeping:
    "Keeps what was printed beside the errors."
    def __init__(self, capsys, kept): self.capsys, self.kept = capsys, kept
    def readouterr(self):
        found = self.capsys.readouterr()
        self.kept['out'] = found.out
        return found
