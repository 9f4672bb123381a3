"""A step of quantisation-aware training with the oscillation tracker looking after it against the same step without, in turns.

    python benchmarks/tracking_time.py [--variant yolo10n] [--imgsz 320] [--batch 16] [--device cpu|0] [--rounds 15] [--freezing] [--dampening]
"""
import argparse
import statistics

import torch

from common import emit, in_turns, ratios, spread
from training import Trainee, batch_of, device_name
from yolov10_qat.quant.oscillation import Tracker, add_dampening


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='yolo10n')
    parser.add_argument('--imgsz', type=int, default=320)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--freezing', action='store_true', help='with freezing on, as from freeze_start on')
    parser.add_argument('--dampening', action='store_true', help='with the pull of dampening, as from dampen_start on')
    args = parser.parse_args()
    device = args.device if args.device == 'cpu' else f'cuda:{args.device}'
    trainee = Trainee(args.variant, batch_of(args.batch, args.imgsz, device), device, quantizer='fused')
    tracker, strength = Tracker(trainee.model, trainee.manifest,
                                freezing=args.freezing), torch.tensor(.1, device=device)
    def look():
        tracker.look(.05 if args.freezing else None)
        trainee.finish()
    def damped(*_): add_dampening(tracker, strength, 'sum')
    def without():
        trainee.step()
        trainee.finish()
    def tracked():
        hook = trainee.optimizer.register_step_pre_hook(damped) if args.dampening else None
        trainee.step()
        if hook: hook.remove()
        look()
    seconds = in_turns(dict(tracked=tracked, without=without), args.rounds)
    looks = in_turns(dict(look=look), 15)['look']
    share = statistics.median(looks)/statistics.median(seconds['without'])
    print(f'{args.variant}, {args.imgsz} pixels, batch '
          f'{args.batch}{", freezing" if args.freezing else ""}{", dampening" if args.dampening else ""}, '
          f'{device_name(device)}; {len(tracker.integer_w):,} weights')
    for name, values in seconds.items(): print(f'{name:18} {spread(values, "s a step")}')
    print(f'tracked / without  {spread(ratios(seconds, "tracked", "without"))}')
    print(f'one look           {spread([1000*v for v in looks], "ms")}: {share:.1%} of a step')
    emit('tracking', variant=args.variant, imgsz=args.imgsz, batch=args.batch, freezing=args.freezing, dampening=args.dampening, device=device_name(device),
         ratio=statistics.median(ratios(seconds, 'tracked', 'without')), look_s=statistics.median(looks), share=share)


if __name__ == '__main__': main()
