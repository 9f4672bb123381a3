"The smallest data and base weights that a run accepts, for notebooks and tests; nothing is stored that can be generated."
import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [dict(id=5, name='red'), dict(id=9, name='green')]  # not contiguous, as COCO's are not


def tiny_coco(root, images=4, side=64, seed=0):
    "COCO-format data: one coloured square an image, on noise."
    rng, root = np.random.default_rng(seed), Path(root)
    (root/'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (root/split).mkdir()
        records = [_image(rng, root/split, i, side) for i in range(1, images+1)]
        content = dict(images=[r[0] for r in records], annotations=[r[1] for r in records], categories=CATEGORIES)
        (root/'annotations'/f'instances_{split}.json').write_text(json.dumps(content))
    return root


def _image(rng, folder, i, side):
    edge = 3*side//8
    pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    x, y = (int(v) for v in rng.integers(0, side-edge, 2))
    pixels[y:y+edge, x:x+edge] = (220, 40, 40) if i % 2 else (40, 220, 40)
    Image.fromarray(pixels).save(folder/f'{i:03d}.jpg')
    image = dict(id=i, file_name=f'{i:03d}.jpg', width=side, height=side)
    return image, dict(id=i, image_id=i, category_id=5 if i % 2 else 9, bbox=[x, y, edge, edge], area=edge*edge,
                       iscrowd=0)


def tiny_base(path, variant='yolov10n', classes=2):
    "Untrained YOLOv10 weights, pickled as Ultralytics pickles them."
    import torch
    from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(0)
    torch.save({'model': DetectionModel(f'{variant}.yaml', nc=classes, verbose=False)}, path)
    return Path(path)
