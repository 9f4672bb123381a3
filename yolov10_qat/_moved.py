"Import paths of version 0.1.0 that its README, tutorials and published runs name; each hands on to the new home."
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {  # old module: rooms that share its names; `checkpoint` is a room itself and hands on in its __init__
    'coco': ('data.view', 'data.annotations', 'data.images', 'data.labels', 'data.splits', 'report.data_figures'),
    'config': ('core.config', 'core.methods', 'core.recipe', 'core.errors'),
    'contents': ('checkpoint.format',),
    'correction': ('train.qc',),
    'folder': ('runs.folder', 'core.layout', 'runs.environment'),
    'launch': ('pipeline.launch',),
    'qat': ('train.qat_trainer',),
    'quantizer': ('quant.layers',),
    'result': ('report.card',),
    'scenes': ('data.scenes',),
    'trainer': ('train.float_trainer', 'core.methods'),
    'weights': ('checkpoint.base_weights',),
}


class _Old(ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)  # asked by Python itself
        for home in MOVED[self.__name__.rpartition('.')[2]]:
            module = import_module(f'yolov10_qat.{home}')
            if hasattr(module, name): return getattr(module, name)
        raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname, path=None, target=None):
        package, _, old = fullname.rpartition('.')
        return ModuleSpec(fullname, self) if package == 'yolov10_qat' and old in MOVED else None

    def create_module(self, spec): return _Old(spec.name)
    def exec_module(self, module): pass


def install():
    "Make the old paths importable; they are found last, so a real module always wins."
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path): sys.meta_path.append(_Finder())
