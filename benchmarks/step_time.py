"""A step of quantisation-aware training against the same step in floating point, and against Brevitas' own quantisers, in turns; with
`--group-size` also a step with a scale for each group of input channels against one per channel.

    python benchmarks/step_time.py [--variant yolo10n] [--imgsz 320] [--batch 16] [--scale stats|learned] [--device cpu|0] [--amp] [--rounds 9] [--steps 1] [--group-size 32]

A GPU wants `--steps 20`: so many are made before the clock is read.
"""
import argparse

from common import emit, in_turns, ratios, spread
from training import Trainee, batch_of, device_name

SIDES = dict(float=None, fused='fused', stock='stock')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='yolo10n')
    parser.add_argument('--imgsz', type=int, default=320)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--scale', default='stats', choices=('stats', 'learned'))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--steps', type=int, default=1)
    parser.add_argument('--group-size', type=int)
    args = parser.parse_args()
    device = args.device if args.device == 'cpu' else f'cuda:{args.device}'
    data = batch_of(args.batch, args.imgsz, device)
    def run(trainee):
        for _ in range(args.steps): trainee.step()
        trainee.finish()
    trainees = {name: Trainee(args.variant, data, device, args.amp, quantizer, args.scale) for name,
                quantizer in SIDES.items()}
    if args.group_size:
        trainees['grouped'] = Trainee(args.variant, data, device, args.amp, 'fused', args.scale, args.group_size)
    seconds = in_turns({name: lambda t=t: run(t) for name, t in trainees.items()}, args.rounds)
    print(f'{args.variant}, {args.imgsz} pixels, batch {args.batch}, {args.scale}{", AMP" if args.amp else ""}, '
          f'{device_name(device)}')
    for name, values in seconds.items(): print(f'{name:14} {spread([v/args.steps for v in values], "s a step")}')
    pairs = [('fused', 'float'), ('stock', 'float')] + [('grouped', 'fused')]*bool(args.group_size)
    for name, other in pairs: print(f'{name} / {other}  {spread(ratios(seconds, name, other))}')
    emit('step', variant=args.variant, imgsz=args.imgsz, batch=args.batch, scale=args.scale, amp=args.amp, group_size=args.group_size, device=device_name(device),
         **{f'{name}_s': [v/args.steps for v in values] for name, values in seconds.items()})


if __name__ == '__main__': main()
