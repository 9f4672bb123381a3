"""What a sweep costs beside its runs: points whose runs end at once, on Ray; time and memory of the driver.

    python benchmarks/sweep_time.py [--points 200]
"""
import argparse
import resource
import tempfile
import time
from pathlib import Path

import cloudpickle
import yaml

from common import emit
from yolov10_qat.sweep import on_ray, sweep


class Stub(on_ray.tune.Trainable):
    "A run that has been done before it began."
    def setup(self, config): self.epoch = 0

    def step(self):
        self.epoch += 1
        return dict(epoch=self.epoch, score=.3, seconds=float(self.epoch)) if self.epoch <= 3 else dict(done=True)

    def save_checkpoint(self, folder): pass
    def load_checkpoint(self, state): pass


class Ended:
    "Stands for the summary of a run."
    status, stopped = 'completed-success', None


def memory_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3


def measure(points):
    "Seconds of the driver's processor a point, seconds on the wall, and what its memory grew by."
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch)/'plan.yaml'
        plan.write_text(yaml.safe_dump(dict(base=dict(profile='demo', epochs=3), grid=dict(seed=list(range(points))))))
        before, cpu, started = memory_mb(), time.process_time(), time.monotonic()
        found = sweep.sweep(plan, Path(scratch)/'out', tell=lambda line: None)
        assert found.count('done') == points
        return (time.process_time()-cpu)/points, time.monotonic()-started, memory_mb()-before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--points', type=int, default=200)
    points = parser.parse_args().points
    cloudpickle.register_pickle_by_value(__import__('sys').modules[Stub.__module__])
    on_ray.PointTrial, on_ray.load_summary = Stub, lambda root: Ended
    sweep.Screen = lambda: Quiet()
    measure(4)  # imports
    few, many = measure(max(4, points//4)), measure(points)
    print(f'{points} points: {many[0]:.3f} s of the driver a point ({few[0]:.3f} s with a quarter of them), {many[1]:.0f} s on the wall')
    print(f'its memory grew by {few[2]:.0f} MB with a quarter, by {many[2]:.0f} MB more with all')
    emit('sweep', points=points, driver_s=many[0], quarter_s=few[0], wall_s=many[1], memory_mb=many[2], quarter_memory_mb=few[2])


class Quiet:
    "No terminal."
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def show(self, sweep, line=''): pass


if __name__ == '__main__': main()
