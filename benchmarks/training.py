"""A training step of YOLOv10 as Ultralytics' trainer makes it, for the benchmarks of steps."""
import torch
from torch.nn.utils import clip_grad_norm_
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import ModelEMA

from yolov10_qat.checkpoint.store import random_model
from yolov10_qat.quant.layers import plan, quantize
from yolov10_qat.train.float_trainer import EqualHeadLoss


def batch_of(size, imgsz, device, boxes=7):
    "Random images with random boxes, as the data loader gives them."
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(boxes*size, 4, generator=draw)*.4 + .2
    data = dict(img=torch.rand(size, 3, imgsz, imgsz, generator=draw), bboxes=corners,
                cls=torch.randint(0, 80, (boxes*size, 1), generator=draw).float(),
                batch_idx=torch.arange(size).repeat_interleave(boxes))
    return {k: v.to(device) for k, v in data.items()}


class Trainee:
    "A model in training: loss, gradients, clipping, Adam, average."
    def __init__(self, variant, data, device, amp=False, quantizer=None, scale='stats', group_size=None):
        self.model = random_model(variant, map(str, range(80)), 0)
        grid = dict(granularity='per_group', group_size=group_size) if group_size else {}
        self.manifest = plan(self.model, scale=scale, **grid)
        if quantizer: quantize(self.model, self.manifest).fused = quantizer == 'fused'
        self.model = self.model.to(device).train().requires_grad_(True)
        self.model.args = get_cfg()
        self.model.criterion, self.average = EqualHeadLoss(self.model), ModelEMA(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.data, self.device, self.amp = data, torch.device(device), amp
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp)

    def step(self):
        with torch.autocast(self.device.type, enabled=self.amp): loss = self.model(self.data)[0].sum()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), 10.)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update(self.model)

    def finish(self):
        if self.device.type == 'cuda': torch.cuda.synchronize()


def device_name(device):
    return torch.cuda.get_device_name(
        device) if torch.device(device).type == 'cuda' else f'{torch.get_num_threads()} CPU threads'
