"""Run a Core ML package of yolov10-qat on a Mac, compare and time it: `python run_coreml.py PACKAGE`.

Needs coremltools and numpy. The package says what torch computed for the picture below, see
nbs/60_deploy/10_coreml_file.ipynb."""
import json
import statistics
import sys
import time

import numpy as np

TURNS = 50


def seconds(model, given):
    "That one prediction takes."
    started = time.perf_counter()
    model.predict(given)
    return time.perf_counter() - started


def lines(model):
    "What a Mac computes and how long it takes, of an opened package."
    facts = json.loads(model.user_defined_metadata['yolov10_qat_coreml'])
    side = facts['imgsz']
    images = np.linspace(0, 1, 3*side**2, dtype=np.float32).reshape(1, 3, side, side)
    off = np.abs(model.predict({'images': images})['raw'][0].max(1).astype(float) - facts['self_check'])
    boxes, scores = off[:4].max(), off[4:].max()
    verdict = 'the same network' if boxes <= 1 and scores <= .01 else 'NOT the same network'
    took = statistics.median(seconds(model, {'images': images}) for _ in range(TURNS))
    return [f'boxes differ by {boxes:.4f} pixels, scores by {scores:.4f}: {verdict}',
            f'one image: {took*1e3:.2f} ms, median of {TURNS} (compute units: all)']


if __name__ == '__main__':
    import coremltools
    print('\n'.join(lines(coremltools.models.MLModel(sys.argv[1]))))
