"The site (`make docs`): Sphinx reads README.md, guides and notebooks where they are stored; pages.py adds the rest."
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
import pages  # noqa: E402

project = 'yolov10-qat'
extensions = ['myst_nb']
root_doc = 'README'
include_patterns = ['*.md', 'docs/guides/*.md', 'docs/rooms/*.md', 'nbs/*.ipynb', 'nbs/**/*.ipynb', 'reports/*.md',
                    'reports/*/*.md', 'benchmarks/README.md', 'tests/manual/README.md']
exclude_patterns = ['nbs/index.ipynb', '**/_runs', '**/.ipynb_checkpoints', '.venv*', '.git', '_docs', 'runs', 'build',
                    'dist', 'yolov10_qat', 'tests/examples']  # the index is README.md; the others are not searched

nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = 'furo'
html_title = 'yolov10-qat'
html_static_path = ['_static']
html_css_files = ['site.css']
html_extra_path = ['_extra']
html_show_sphinx = html_show_copyright = html_copy_source = False
html_math_renderer = 'mathml'
pygments_dark_style = 'github-dark'


def read(app, name, source):
    "What Sphinx reads in place of a stored page."
    if name == root_doc: source[0] += pages.sidebar()
    elif name == 'reports/README': source[0] += pages.toctree(pages.reports())
    elif (Path(app.srcdir)/f'{name}.ipynb').is_file(): source[0] = pages.shown(source[0])


def begin(app):
    "Pages of the rooms are written, and pictures of notebooks stay in the site's folder."
    pages.write_rooms()
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=str(Path(app.outdir)/'_cells'))


def open_reports(app, name, template, context, doctree):
    "A stored report is a page to be read: it opens in the browser, other files are downloaded."
    context['body'] = re.sub(r'download="" (href="[^"]+\.html")', r'\1', context.get('body', ''))


def write_math(writer, node):
    "A formula as MathML, which browsers draw by themselves: nothing is loaded."
    block = isinstance(node, nodes.math_block)
    writer.body.append(convert(node.astext(), display='block' if block else 'inline'))
    raise nodes.SkipNode


def setup(app):
    app.connect('builder-inited', begin, priority=900)
    app.connect('source-read', read)
    app.connect('html-page-context', open_reports)
    app.add_html_math_renderer('mathml', (write_math, None), (write_math, None))
