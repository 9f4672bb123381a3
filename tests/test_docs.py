"The documentation: a short README, guides, and a site that shows every notebook and asks nothing of the network."
import ast
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bounded import bounded
from places import ROOT
from test_house import ALL, LIB

sys.path.insert(0, str(ROOT/'docs'))
import pages  # noqa: E402

GUIDES = sorted((ROOT/'docs'/'guides').glob('*.md'))
LARGEST = 9000  # bytes of README.md


# README and guides

def test_the_readme_is_short(): assert len((ROOT/'README.md').read_bytes()) <= LARGEST


def test_every_guide_is_in_the_sidebar_and_in_the_readme():
    assert {p.stem for p in GUIDES} == set(pages.GUIDES)
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    assert not [p.name for p in GUIDES if f'docs/guides/{p.name}' not in readme]




# Notebooks as readers see them

def cell(source, **kw): return dict(cell_type='code', source=source, metadata={}, outputs=[], execution_count=None) | kw


def test_directives_go_and_hidden_cells_with_them():
    shown = json.loads(pages.shown(json.dumps(dict(cells=[
        cell(['#| export\n', 'x = 1  #| not one\n']), cell('#| hide\nimport os'), cell('#| default_exp a.b'),
        dict(cell_type='markdown', source='#| stays', metadata={})]))))['cells']
    assert [c['source'] for c in shown] == ['x = 1  #| not one', 'import os', '', '#| stays']
    assert [c['metadata'].get('tags') for c in shown] == [[], ['remove-cell'], ['remove-cell'], None]


def test_a_picture_keeps_its_text_and_a_card_loses_its_links():
    outputs = [dict(output_type='display_data', data={'image/png': 'AA'}, metadata={'image/png': {'alt': 'A line.'}}),
               dict(output_type='execute_result', data={'text/html': ['<a href="report.html">the\n', 'report</a> <abbr>AP</abbr>']}, metadata={})]
    shown = pages.read_cell(cell('f()', outputs=outputs))
    assert shown['metadata']['mystnb'] == {'image': {'alt': 'A line.'}}
    assert shown['outputs'] == [outputs[0], outputs[1] | dict(data={'text/html': 'the\nreport <abbr>AP</abbr>'})]


# Rooms

def test_every_room_says_what_it_is_for(): assert pages.purposes().keys() == pages.modules().keys()


EXPECTED = sorted(p.relative_to(ROOT).with_suffix('').as_posix() for p in ALL if p.stem != 'index')


def test_every_notebook_is_in_the_sidebar():
    rooms = [pages.room_page(room, paths) for room, paths in pages.modules().items()]
    listed = re.findall(r'^/(nbs/\S+)$', '\n'.join([pages.sidebar(), *rooms]), flags=re.M)
    assert sorted(listed) == EXPECTED


@pytest.mark.parametrize('room', pages.modules())
def test_a_room_shows_all_public_names(room):
    page, public = pages.room_page(room, pages.modules()[room]), set()
    for file in [LIB/'cli.py'] if room == '99_cli' else (LIB/pages.short(room)).glob('*.py'):
        listed = re.search(r'__all__ = (\[.*?\])', file.read_text(encoding='utf-8'), flags=re.S)
        public.update(ast.literal_eval(listed[1]) if listed else [])
    assert public and {n for line in re.findall(r'^### (.*)$', page, flags=re.M) for n in line.split(', ')} == public


def test_an_outline_ends_before_the_body():
    lines = ['@a', 'def f(', '    x, # One', '): # Two', '    "Says."', '    return x', 'def g(', '    y,', '): return y',
             'class C:', '    "A thing."', '    z:int # Three', '    def m(self):', '        return 1', '    def _n(self): pass', 'def h():', '    return 2']
    outlines = [pages.outline(n, lines) for n in ast.parse('\n'.join(lines)).body]
    assert outlines == [lines[:5], lines[6:9], [*lines[9:12], '', lines[12]], lines[15:16]]


# The site

@pytest.fixture(scope='module')
def site(once):
    "The folder of the site, built as `make docs` does; what Sphinx said is beside it."
    programs = [ROOT/'.venv-docs/bin/sphinx-build', Path(sys.executable).with_name('sphinx-build')]
    program = next((p for p in programs if p.is_file()), None)
    if not program: pytest.skip('no Sphinx: make docs installs it')

    def make(folder):
        done = bounded([program, '-q', '-W', '--keep-going', '-c', 'docs', '.', folder/'html'], cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, '')
    return once('site', make)/'html'


class Tags(HTMLParser):
    "Anchors of a page, its links, what a browser loads with it, and the links of its sidebar."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.sidebar, self.inside = set(), [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        has = dict(attrs)
        self.ids.add(has.get('id'))
        if tag == 'div': self.inside += bool(self.inside) or 'sidebar-tree' in (has.get('class') or '').split()
        if tag == 'a' and 'href' in has:
            self.links.append(has['href'])
            if self.inside: self.sidebar.add(has['href'])
        loads = [has[k] for k in ('src', 'srcset', 'poster', 'data') if has.get(k)] + ([has['href']] if tag == 'link' else [])
        self.loads += [x for x in loads if not x.startswith('data:')]

    def handle_endtag(self, tag): self.inside -= tag == 'div' and self.inside > 0


@pytest.fixture(scope='module')
def read(site):
    "Pages of the site -> their tags."
    return {p: Tags(p.read_text(encoding='utf-8')) for p in site.rglob('*.html') if not {'_downloads', '_static'} & {*p.relative_to(site).parts}}


def test_the_site_loads_nothing_from_the_network(site, read):
    far = {f'{p.name}: {x}' for p, tags in read.items() for x in tags.loads if re.match(r'\w+:|//', x)}
    styles = {f'{p.name}: {x}' for p in site.rglob('*.css') for x in re.findall(r'(?:@import|url\()\s*["\']?(?:https?:)?//[^)\s]+', p.read_text(encoding='utf-8'))}
    assert len(read) > len(ALL) and not far and not styles


def test_what_the_site_loads_is_there(read):
    missing = {f'{p.name}: {x}' for p, tags in read.items() for x in tags.loads if not (p.parent/unquote(urlsplit(x).path)).exists()}
    assert not missing


def test_links_of_the_site_lead_somewhere(read):
    by_path, dead = {p.resolve(): tags for p, tags in read.items()}, []
    for page, tags in read.items():
        for link in tags.links:
            parts = urlsplit(link)
            if parts.scheme: continue
            target = (page.parent/unquote(parts.path)).resolve() if parts.path else page.resolve()
            there = by_path.get(target)
            if not target.is_file() or parts.fragment and there and unquote(parts.fragment) not in there.ids: dead.append(f'{page.name}: {link}')
    assert not dead


def test_the_sidebar_leads_to_every_notebook(site, read):
    home = site/'README.html'
    listed = {(home.parent/link).resolve() for link in read[home].sidebar}
    assert not [name for name in EXPECTED if (site/f'{name}.html').resolve() not in listed]


def test_pages_show_no_directive(site):
    shown = [p.name for p in (site/'nbs').rglob('*.html') if re.search(r'^#\| ?\w', re.sub(r'<[^>]+>', '', p.read_text(encoding='utf-8')), flags=re.M)]
    assert not shown


def test_the_first_page_is_found(site): assert 'url=README.html' in (site/'index.html').read_text(encoding='utf-8')
