"""Rounding the weights of all layers, forward and backward: all at once against Brevitas layer by layer, in turns; nothing else is done.

    python benchmarks/fakequant_time.py [--variant yolo10n] [--scale stats|learned] [--granularity per_channel|per_tensor] [--device cpu|0] [--rounds 25]
"""
import argparse
import statistics

import torch

from common import emit, in_turns, ratios, spread
from training import device_name
from yolov10_qat.checkpoint.store import random_model
from yolov10_qat.quant.fakequant import group_rows, prepared
from yolov10_qat.quant.layers import plan, quantize, quantized_layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='yolo10n')
    parser.add_argument('--scale', default='stats', choices=('stats', 'learned'))
    parser.add_argument('--granularity', default='per_channel', choices=('per_channel', 'per_tensor'))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--rounds', type=int, default=25)
    args = parser.parse_args()
    device = args.device if args.device == 'cpu' else f'cuda:{args.device}'
    model = random_model(args.variant, map(str, range(80)), 0)
    model = quantize(
        model, plan(model, granularity=args.granularity, scale=args.scale)).to(device).train().requires_grad_(True)
    layers = list(quantized_layers(model).values())
    groups, upstream, parameters = group_rows(layers), [
        torch.randn_like(layer.weight) for layer in layers], [p for layer in layers for p in layer.parameters()]

    def backward(values):
        torch.autograd.backward(values, upstream)
        for p in parameters: p.grad = None
        if device != 'cpu': torch.cuda.synchronize()
    def fused():
        with prepared(groups): values = [layer.prepared for layer in layers]
        backward(values)
    def stock(): backward([layer.quant_weight().value for layer in layers])

    seconds = in_turns(dict(fused=fused, stock=stock), args.rounds)
    print(f'{args.variant}, {args.scale}, {args.granularity}, {device_name(device)}: {len(layers)} layers in '
          f'{len(groups)} matrices, {sum(layer.weight.numel() for layer in layers):,} weights')
    for name, values in seconds.items(): print(f'{name:14} {spread([1000*v for v in values], "ms")}')
    print(f'stock / fused  {spread(ratios(seconds, "stock", "fused"))}')
    emit('fakequant', variant=args.variant, scale=args.scale, granularity=args.granularity, device=device_name(device), fused_s=statistics.median(seconds['fused']), stock_s=statistics.median(seconds['stock']),
         times_faster=statistics.median(ratios(seconds, 'stock', 'fused')))


if __name__ == '__main__': main()
