"Packaging: everything is read from settings.ini, so that nbdev and pip see the same facts."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

setup(
    name=cfg['dist_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    license='AGPL-3.0-or-later',
    keywords=cfg['keywords'],
    python_requires=f">={cfg['min_python']},<3.13",
    packages=find_packages(include=[cfg['lib_name'], f"{cfg['lib_name']}.*"]),
    package_data={cfg['lib_name']: ['templates/*', 'recipes/*', 'schemas/*', 'assets/*']},
    install_requires=cfg['requirements'].split(),
    extras_require={name: cfg[f'{name}_requirements'].split()
                    for name in ('fast', 'sweep', 'coreml', 'litert', 'trackers')},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
