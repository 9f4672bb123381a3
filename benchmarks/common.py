"""What the benchmarks share: spreads for people, a JSON line for machines."""
import json
import os
import statistics

from yolov10_qat.folder import environment


def spread(values, unit=''):
    "Median, least and greatest."
    values = sorted(values)
    return f'median {statistics.median(values):.3f}{unit and " "}{unit}, from {values[0]:.3f} to {values[-1]:.3f}'


def ratios(pairs): return [a/b for a, b in pairs]


def emit(name, **figures):
    "One line of JSON: the figures and where they come from."
    where = environment() | dict(load=round(os.getloadavg()[0], 2))
    print(json.dumps(dict(benchmark=name, **figures, **where), default=lambda v: round(float(v), 6)))
