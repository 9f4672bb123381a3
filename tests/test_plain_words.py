"Words that readers stumble over: none in messages, help texts, reports, templates, the guides, the README and the notebooks."
import ast
import io
import json
import re
import tokenize

import pytest
import typer

from places import ROOT
from test_house import ALL, LIB, by_name
from yolov10_qat.cli import app
from yolov10_qat.core.config import RunConfig

PAGES = [ROOT/'README.md', *sorted((ROOT/'docs'/'guides').glob('*.md')), *sorted((LIB/'templates').iterdir())]

COUNTED = 'bits?|bytes|checkpoints?|figures?|images?|lines?|rows?|runs?|scales?|seeds?|shifts?|steps?|tables?|weights?'
UNIT = 'channel|class|epoch|group|image|layer|method|model|pixel|point|rung|run|second|seed|size|step|value|weight'
IDIOLECT = {  # what to say instead -> words
    'say': r'\b(?:told|tells?|telling)\b',
    'contain, keep, be stable': r'\b(?:held|holds?|holding)\b',
    'is in': r'\b(?:lies?|lay|lain|lying)\b',
    'again, re-': r'\banew\b',
    'per': rf'\b(?:{COUNTED}|one|two) an? (?:[a-z]+ )?(?:{UNIT})s?\b',
    'a noun': r'\bwhat (?:is|was|are|were|there is)\b(?![^.!:|\n]*\?)',
    'write': r'\b(?:leaves?|leaving|left) behind\b',
}

def stumbles(text):
    "Words of the list, each with a better one; code aside, in Markdown the text between backticks."
    text = re.sub(r'```.*?```|`[^`]*`', '', text, flags=re.S)
    return [f'{m[0]} ({plain})' for plain, words in IDIOLECT.items() for m in re.finditer(words, text, flags=re.I)]


@pytest.mark.parametrize('text', [
    'the run told it', 'cannot be told from it', 'it tells pixels apart', 'the run held', 'holds a view', 'lies in no run',
    'measured anew', 'one step a channel', 'has one a layer', '4.15 bits a weight', 'bits a deployed weight', 'images a step',
    'what is left of it', 'look at what there is.', 'What is claimed, and what is not', 'what it leaves behind'])
def test_a_word_is_seen(text): assert stumbles(text)


@pytest.mark.parametrize('text', ['What is an epoch?', 'one scale per channel', 'a threshold', 'underlies', 'leave it out',
                                  'bits as a list', 'say `what is held`', 'two a.m.', 'images a reader sees'])
def test_other_words_pass(text): assert not stumbles(text)


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.name)
def test_pages(path):
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb': text = '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'])
    assert not stumbles(text)


def remarks(code):
    "Docstrings and comments of a cell; lines for IPython alone aside."
    code = ''.join('\n' if line.startswith(('%', '!')) else line for line in code.splitlines(keepends=True))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith('#|'): yield token.string

def test_remarks_are_found():
    code = '#| export\ndef f(\n    a:int, # A number\n):\n    "Half of it."\n    return "a # b", a/2  # a rest\n%time f(2)\n'
    assert {*remarks(code)} == {'# A number', 'Half of it.', '# a rest'}


def prose(cell):
    text = ''.join(cell['source'])
    return [text] if cell['cell_type'] == 'markdown' else remarks(text) if cell['cell_type'] == 'code' else []

@pytest.mark.parametrize('path', ALL, ids=by_name)
def test_notebooks(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    assert not [f'{cell["id"]}: {", ".join(bad)}: {text}' for cell in cells for text in prose(cell) if (bad := stumbles(text))]


def sentences(tree):
    "String literals with a space in them, docstrings aside; in f-strings `{}` for each value."
    aside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            aside.update(map(id, node.values))
            yield node.lineno, ''.join(v.value if isinstance(v, ast.Constant) else '{}' for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in aside and ' ' in node.value:
            yield node.lineno, node.value

def test_sentences_are_found():
    found = [text for _, text in sentences(ast.parse('"A doc string."\nraise E(f"a {b} c" " d", "one word", "x")\n'))]
    assert found == ['a {} c d', 'one word']


@pytest.mark.parametrize('path', sorted(LIB.rglob('*.py')), ids=lambda p: p.relative_to(LIB).as_posix())
def test_messages(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert not [f'line {line}: {", ".join(bad)}: {text}' for line, text in sentences(tree) if (bad := stumbles(text))]


def helps(command, words=()):
    "Help texts of a command, its options and the commands in it."
    yield ' '.join(words), '\n'.join(filter(None, (command.help, command.epilog)))
    for option in command.params: yield ' '.join((*words, option.name)), option.help or ''
    for name, inner in getattr(command, 'commands', {}).items(): yield from helps(inner, (*words, name))

def test_help():
    texts = dict(helps(typer.main.get_command(app)))
    assert len(texts) > 100 and 'run weight_bits' in texts
    assert not {name: bad for name, text in texts.items() if (bad := stumbles(text))}


def test_settings(): assert not {k: bad for k, f in RunConfig.model_fields.items() if (bad := stumbles(f.description))}
