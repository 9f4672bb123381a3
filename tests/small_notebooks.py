"Notebooks of a few lines, to go through the launcher without torch."
import nbformat

from yolov10_qat.core.layout import TEMPLATE

ENTER = '''from yolov10_qat.pipeline.entrance import config_from, enter
entered = enter(config_from(globals(), resume), resume)'''


def write(path, *cells):
    "A notebook with a cell of parameters in front."
    new = nbformat.v4
    first = new.new_code_cell('resume:bool = False', metadata=dict(tags=['parameters']))
    metadata = nbformat.read(TEMPLATE, 4).metadata
    nbformat.write(new.new_notebook(cells=[first, *map(new.new_code_cell, cells)], metadata=metadata), path)
    return path


def said(path):
    "What the executed notebook printed."
    outputs = [o for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for o in c.outputs]
    return ''.join(o.get('text', '') for o in outputs)
