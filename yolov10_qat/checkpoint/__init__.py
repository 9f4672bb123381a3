def __getattr__(name):
    "Names of the module `checkpoint` of version 0.1.0, for published notes; new ones say `yolov10_qat.load`."
    from importlib import import_module
    try: return getattr(import_module('yolov10_qat.checkpoint.store'), name)
    except AttributeError: raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from None
