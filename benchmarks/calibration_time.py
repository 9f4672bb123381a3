"""Calibrating all layers: closed form on as many views as it takes, against Brevitas' GPTQ on its 32 images, in turns; and the memory of the first.

    python benchmarks/calibration_time.py [--variant yolo10n] [--imgsz 320] [--device cpu|0] [--rounds 3]
"""
import argparse
import resource
import statistics
from copy import deepcopy

import torch

from common import emit, in_turns, ratios, spread
from training import device_name
from yolov10_qat.checkpoint.store import random_model
from yolov10_qat.quant.calibrate import CALIBRATION_IMAGES, calibrate
from yolov10_qat.quant.layers import plan
from yolov10_qat.quant.views import views_wanted

BATCH = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='yolo10n')
    parser.add_argument('--imgsz', type=int, default=320)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    device = args.device if args.device == 'cpu' else f'cuda:{args.device}'
    base = random_model(args.variant, map(str, range(80)), 0).to(device).eval()
    manifest, draw = plan(base, scale='learned'), torch.Generator().manual_seed(0)
    def images(count): return [part.to(device) for part in torch.rand(count, 3, args.imgsz, args.imgsz, generator=draw).split(BATCH)]
    views, few = images(views_wanted(args.imgsz)), images(CALIBRATION_IMAGES)
    calibrate(deepcopy(base), manifest, 'closed', views)
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6
    seconds = in_turns(dict(closed=lambda: calibrate(deepcopy(base), manifest, 'closed', views),
                            gptq=lambda: calibrate(deepcopy(base), manifest, 'gptq', few)), args.rounds)
    print(f'{args.variant}, {args.imgsz} pixels, {device_name(device)}: closed on {views_wanted(args.imgsz)} views, gptq on {CALIBRATION_IMAGES} images')
    print(f'closed alone: greatest memory of the process {memory_gb:.2f} GB')
    for name, values in seconds.items(): print(f'{name:14} {spread(values, "s")}')
    print(f'gptq / closed  {spread(ratios(seconds, "gptq", "closed"))}')
    emit('calibration', variant=args.variant, imgsz=args.imgsz, device=device_name(device), closed_s=statistics.median(seconds['closed']),
         gptq_s=statistics.median(seconds['gptq']), times_faster=statistics.median(ratios(seconds, 'gptq', 'closed')), memory_gb=memory_gb)


if __name__ == '__main__': main()
