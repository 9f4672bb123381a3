"""One process of a training on the CPU: `python tests/two_ranks.py RUN_ROOT`, or two of them with
`python -m torch.distributed.run --nproc_per_node 2 tests/two_ranks.py RUN_ROOT`. Images come in order, so that two ranks see in a step what one
process sees in two gathered batches. Each rank leaves what it ends with in RUN_ROOT/rank-N.pt."""
import functools
import sys
from pathlib import Path

import torch
import ultralytics.models.yolo.detect.train as detect
from torch import distributed as dist
from torch import nn
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from yolov10_qat.core.config import load_config
from yolov10_qat.train.float_trainer import overrides
from yolov10_qat.train.qat_trainer import QATTrainer


class OnCpu(QATTrainer):
    "Ultralytics knows several GPUs, not several processes on a CPU."
    def _setup_ddp(self): dist.init_process_group('gloo')


class Wrapped(nn.parallel.DistributedDataParallel):
    def __init__(self, module, device_ids, **how): super().__init__(module, **how)


def main(root):
    nn.parallel.DistributedDataParallel = Wrapped
    detect.build_dataloader = functools.partial(in_order, detect.build_dataloader)
    trainer, losses = OnCpu(overrides=overrides(load_config(root/'run_config.yaml'), root)), []
    trainer.add_callback('on_train_batch_end', lambda t: losses.append({k: float(v) for k, v in t.loss_items.items()}))
    trainer.train()
    torch.save(
        dict(losses=losses, model=unwrap_model(trainer.model).state_dict(), ema=trainer.ema.ema.state_dict(),
             oscillation=trainer.tracker.state_dict(), rows=trainer.rows), root/f'rank-{max(RANK, 0)}.pt')
    if dist.is_initialized(): dist.destroy_process_group()


def in_order(build, *arguments, shuffle=True, **more): return build(*arguments, shuffle=False, **more)


if __name__ == '__main__': main(Path(sys.argv[1]).resolve())
