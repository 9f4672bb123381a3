"Render nbs/index.ipynb to README.md: `python tests/render_readme.py`, or `make readme`."
import posixpath
import re

import nbformat

from places import ROOT


def fenced(text, language=''):
    "A code block; its fence is longer than any fence in `text`."
    fence = '```'
    while fence in text: fence += '`'
    return f'{fence}{language}\n{text.rstrip()}\n{fence}'


def output_text(output):
    "What a cell printed or showed, as text; empty for anything else."
    return output.text if output.output_type == 'stream' else output.get('data', {}).get('text/plain', '')


def from_root(text):
    "The same prose with its relative links, which start in nbs/, starting in the root."
    def link(match):
        return match[0] if re.match(r'\w+:|#',
                                    match[1]) else f"]({posixpath.normpath(posixpath.join('nbs', match[1]))})"
    return re.sub(r'\]\(([^)\s]+)\)', link, text)


def render(notebook):
    "Markdown of a notebook: prose with links that work in the root, code and its text output as blocks, hidden cells dropped."
    blocks = []
    for cell in notebook.cells:
        if cell.source.startswith('#| hide'): continue
        if cell.cell_type == 'markdown': blocks.append(from_root(cell.source.strip()))
        if cell.cell_type == 'code':
            text = ''.join(output_text(o) for o in cell.outputs)
            blocks += [fenced(cell.source, 'python')] + ([fenced(text)] if text.strip() else [])
    return '\n\n'.join(blocks) + '\n'


def readme():
    "What README.md must say."
    return render(nbformat.read(ROOT/'nbs'/'index.ipynb', as_version=4))


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
