"The gate at its edges: runs one epoch or one image short, trained a little differently, fallen, or of too few seeds."
import pytest

from many_runs import held, store, vary
from yolov10_qat.compare.gate import ask_gate, gate
from yolov10_qat.compare.runs import find_runs
from yolov10_qat.core.config import RANDOM, RunConfig

N0, N1, S0, S1 = held()


def decide(tmp_path, *summaries): return gate(find_runs([store(tmp_path/'runs', *summaries)])[0])

def other(seed=1, run_id=None, outcome='stable', **changes):
    return vary('yolo10s', seed=seed, run_id=run_id, outcome=outcome, changes={k.replace('__', '.'): v for k, v in changes.items()})


@pytest.mark.parametrize('changes, said', [
    (dict(training__epochs=9), 'less than the profile short: 9 epochs instead of 10'),
    (dict(dataset__train_images=2047), '2,047 training images instead of 2,048'),
    (dict(dataset__val_images=255), '255 validation images instead of 256')])
def test_one_less_than_the_profile_short(tmp_path, changes, said):
    found = decide(tmp_path, N0, N1, S0, other(**changes))
    assert not found.allowed and said in found.reasons[1]


ALIKE = dict(epochs=('training__epochs', 20), batch=('training__batch', 8), lr0=('training__overrides__lr0', .02),
             lrf=('training__overrides__lrf', .5), warmup_epochs=('training__overrides__warmup_epochs', 2.),
             optimizer=('training__overrides__optimizer', 'SGD'))

@pytest.mark.parametrize('name', ALIKE)
def test_each_that_must_be_equal(tmp_path, name):
    found = decide(tmp_path, N0, N1, S0, other(**dict([ALIKE[name]])))
    assert not found.allowed and f'{name} {ALIKE[name][1]} instead of ' in found.reasons[1]


def test_seeds_count_not_runs(tmp_path):
    "Two runs of two seeds speak for the variant, whatever three runs of one seed do beside them."
    beside = [other(seed=0, run_id=f'more{i}', training__overrides__lr0=.02) for i in range(3)]
    assert decide(tmp_path, *held(), *beside).allowed


def test_a_short_run_that_fell_is_told_as_fallen(tmp_path):
    found = decide(tmp_path, N0, N1, other(outcome='collapsed', training__epochs=3))
    assert not found.allowed and 'collapsed: best 0.195' in found.reasons[1]


def test_from_scratch_no_gate_is_asked():
    assert ask_gate(RunConfig(variant='yolo10m', base=RANDOM)) is None
