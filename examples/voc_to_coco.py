"""Pascal VOC as COCO-format data: `python voc_to_coco.py VOC OUT CLASS...` makes OUT of VOC/Annotations/NAME.xml,
VOC/JPEGImages/NAME.jpg and the names in VOC/ImageSets/Main/{train,val,test}.txt.

Photos stay where they are, OUT/train, OUT/val and OUT/test are links. Classes get ids from 0, in the order given."""
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def boxes(file, tree, classes):
    "Category id, box (x, y, width, height, pixels from the top left) and area of each object."
    for thing in tree.iter('object'):
        name = thing.find('name').text
        if name not in classes: sys.exit(f"{file}: class '{name}' is none of {', '.join(classes)}; name it, too")
        x1, y1, x2, y2 = (float(thing.find(f'bndbox/{c}').text) for c in ('xmin', 'ymin', 'xmax', 'ymax'))
        yield dict(category_id=classes.index(name), bbox=[x1, y1, x2-x1, y2-y1], area=(x2-x1)*(y2-y1), iscrowd=0)


def to_coco(voc, names, classes):
    "The three lists of COCO's format, for the images of one split."
    images, annotations = [], []
    for image, name in enumerate(names, 1):
        file = voc/'Annotations'/f'{name}.xml'
        tree = ET.parse(file)
        size = {side: int(tree.find(f'size/{side}').text) for side in ('width', 'height')}
        images.append(dict(id=image, file_name=f'{name}.jpg', **size))
        annotations += [dict(image_id=image, **box) for box in boxes(file, tree, classes)]
    return dict(images=images, annotations=[dict(id=i, **a) for i, a in enumerate(annotations, 1)],
                categories=[dict(id=i, name=name) for i, name in enumerate(classes)])


if __name__ == '__main__':
    voc, out, classes = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3:]
    (out/'annotations').mkdir(parents=True)
    for split in ('train', 'val', 'test'):
        data = to_coco(voc, (voc/'ImageSets'/'Main'/f'{split}.txt').read_text().split(), classes)
        (out/'annotations'/f'instances_{split}.json').write_text(json.dumps(data))
        (out/split).symlink_to(voc/'JPEGImages')
        print(f'{split}: {len(data["images"])} images, {len(data["annotations"])} boxes')
