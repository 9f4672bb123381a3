"""COCO scores by hotcoco against pycocotools, in turns, on the detections of a run's evaluation; all numbers of both are compared, to the last bit.

    python benchmarks/score_time.py RUN_ROOT [--rounds 5]
"""
import argparse
from pathlib import Path

from common import emit, in_turns, ratios, spread
from yolov10_qat.evaluate.coco_ap import _refereed, coco_scores, hotcoco


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run_root', type=Path)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    if not hotcoco: parser.error("hotcoco is not installed: pip install 'yolov10-qat[fast]'")
    truth = args.run_root/'dataset'/'annotations'/'instances_val.json'
    for file in sorted((args.run_root/'evaluation').glob('fp-*-detections.json')):
        found = {}
        def judge(name, score): return lambda: found.update({name: score(truth, file)})
        seconds = in_turns(dict(hotcoco=judge('hotcoco', coco_scores), pycocotools=judge('pycocotools', _refereed)),
                           args.rounds)
        for name, values in seconds.items(): print(f'{file.name} {name:12} {spread(values, "s")}')
        faster = ratios(seconds, 'pycocotools', 'hotcoco')
        print(f"{file.name} times faster {spread(faster)}; the same numbers: "
              f"{found['hotcoco'] == found['pycocotools']}")
        emit('coco_scores', detections=file.name, seconds=seconds, times_faster=faster,
             same=found['hotcoco'] == found['pycocotools'])


if __name__ == '__main__': main()
