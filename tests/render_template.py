"Write the cell of parameters into the run template: `python tests/render_template.py`, as `make notebooks` does."
import nbformat

from yolov10_qat.core.config import parameter_cell
from yolov10_qat.core.layout import TEMPLATE


def parameters(notebook):
    "The cell that papermill fills."
    return next(c for c in notebook.cells if 'parameters' in c.metadata.get('tags', []))


if __name__ == '__main__':
    template = nbformat.read(TEMPLATE, as_version=4)
    parameters(template).source = parameter_cell()
    nbformat.write(template, TEMPLATE)
