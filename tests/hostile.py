"Files that mean harm, for the tests of every format's door: trees with one thing wrong, and a watch over what opening does."
import copy
import math
import os
import signal
import sys
from contextlib import contextmanager

FAKE = 'x\nwhole: yes\x1b[2K\u202e'  # a word that pretends to be a line of ours
ODD = {  # what stands where something else should
    'none': None, 'true': True, 'zero': 0, 'minus one': -1, 'large': 2**31, 'huge': 2**63-1, 'endless': 10**30,
    'fraction': .5, 'nan': math.nan, 'infinite': math.inf, 'empty word': '', 'word': 'nonsense', 'fake line': FAKE,
    'long word': 'a'*200_000, 'surrogate': '\ud800', 'up': '../../owned', 'list': [], 'dict': {}, 'pair': (1, 'x'),
    'numbers': [0]*50_000, 'deep': None, 'mixed keys': {1: 'a', 'b': 2}}


def deep(levels):
    "Lists in each other."
    value = []
    for _ in range(levels): value = [value]
    return value


def places(tree, at=()):
    "The path of each value of a tree of dicts, lists and tuples."
    if at: yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in items: yield from places(value, (*at, key))


def changed(tree, at, change):
    "A copy of a tree in which the holder of the value at a path has been changed by `change(holder, key)`."
    tree, chain = copy.copy(tree), []
    holder = tree
    for key in at[:-1]:
        chain.append((holder, key))
        holder = list(holder[key]) if isinstance(holder[key], tuple) else copy.copy(holder[key])
        chain[-1][0][key] = holder
    change(holder, at[-1])
    return tree


def _replace(draw, odd):
    name = draw.choice([*odd])
    value = deep(draw.choice([20, 40, 100])) if name == 'deep' else odd[name]
    def change(holder, key): holder[key] = value
    return name, change

def _remove(draw, odd):
    def change(holder, key): del holder[key]
    return 'missing', change

def _add(draw, odd):
    name, put = _replace(draw, odd)
    def change(holder, key): put(holder, f'{key}{FAKE}') if isinstance(holder, dict) else holder.append(odd[name])
    return f'extra {name}', change

def _wrap(draw, odd):
    def change(holder, key): holder[key] = [holder[key]]
    return 'wrapped', change

def _cast(draw, odd):
    def change(holder, key): holder[key] = str(holder[key])[:1000]
    return 'as a word', change


def mutate(tree, draw, odd=ODD, skip=lambda at: False):
    """A tree with one thing wrong, and what it is; `draw` is a random.Random, `odd` the wrong values.
    Each branch of the top is as likely as any other, however many values it holds."""
    top = draw.choice([k for k in tree if not skip((k,))])
    below = [at for at in places(tree[top], (top,)) if not skip(at)]
    at = draw.choice([below[0], draw.choice(below), draw.choice(below)])
    name, change = draw.choice([_replace, _replace, _replace, _remove, _add, _wrap, _cast])(draw, odd)
    return changed(tree, at, change), f"{'.'.join(map(str, at))}: {name}"


def flipped(data, draw, flips=1):
    "Bytes, some of them others."
    data = bytearray(data)
    for _ in range(flips): data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


ACTS = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.Popen', 'socket.connect', 'socket.getaddrinfo',
        'urllib.Request', 'pickle.find_class', 'os.mkdir', 'os.remove', 'os.rename', 'os.link', 'os.symlink', 'os.chmod')
_seen, _allowed, _usual = None, (), ()

def _audit(event, arguments):
    if _seen is None: return
    writes = event == 'open' and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not (writes or event in ACTS) or f'{event} {arguments[:1]}'.startswith(_usual): return
    place = _place(*arguments) if arguments and (event == 'open' or event.startswith('os.')) else ''
    if not any(f'{place}/'.startswith(f'{a}/') for a in _allowed): _seen.append((event, str(arguments)[:200]))

def _place(path, *more):
    "Where a file is that Python is about to touch; the last argument may be the descriptor of its folder."
    if not isinstance(path, (str, bytes, os.PathLike)): return ''
    folder = more[-1] if more and isinstance(more[-1], int) and more[-1] > 2 else None
    within = os.readlink(f'/proc/self/fd/{folder}') if folder and os.path.exists(f'/proc/self/fd/{folder}') else ''
    return os.path.abspath(os.path.join(within, os.fsdecode(path)))

sys.addaudithook(_audit)  # it cannot be taken away again, only put to sleep


class Late(BaseException):
    "It took too long; no `except Exception` keeps it."


@contextmanager
def watched(*allowed, usual=(), seconds=60):
    """What happens inside must start nothing, connect to nothing, unpickle nothing and write nowhere but below `allowed`.
    `usual` are beginnings of events that belong to the work, such as `os.fork` or "subprocess.Popen ('git',"."""
    global _seen, _allowed, _usual
    def late(*_): raise Late(f'more than {seconds} s')
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    _usual = usual
    _seen, _allowed = [], tuple(os.path.abspath(a) for a in allowed)
    try:
        yield _seen
    finally:
        seen, _seen = _seen, None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not seen, seen


def answer(main, *words):
    "Status, output and errors of a command of ours, called in this process."
    import contextlib
    import io
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main([str(w) for w in words])
        except SystemExit as end: return end.code or 0, out.getvalue(), err.getvalue()
    raise AssertionError('main did not exit')
