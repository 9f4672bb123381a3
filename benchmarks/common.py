"""What the benchmarks share: a training step, turns, spreads for people and a JSON line for machines."""
import json
import os
import statistics
import time

from yolov10_qat.runs.environment import environment


def spread(values, unit=''):
    "Median, least and greatest."
    values = sorted(values)
    return f'median {statistics.median(values):.3f}{unit and " "}{unit}, from {values[0]:.3f} to {values[-1]:.3f}'


def in_turns(calls, rounds):
    "Seconds of each call, round by round; who begins changes, so that a drift of the machine favours none. The first round is not counted."
    names, seconds = list(calls), {name: [] for name in calls}
    for i in range(rounds + 1):
        for name in names[i % len(names):] + names[:i % len(names)]:
            started = time.perf_counter()
            calls[name]()
            if i: seconds[name].append(time.perf_counter()-started)
    return seconds


def ratios(seconds, of, to): return [a/b for a, b in zip(seconds[of], seconds[to])]


def emit(name, **figures):
    "One line of JSON: the figures and where they come from."
    where = environment() | dict(date=time.strftime('%Y-%m-%d'), load=round(os.getloadavg()[0], 2))
    print(json.dumps(dict(benchmark=name, **figures, **where), default=lambda v: round(float(v), 6)))
