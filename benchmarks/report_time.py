"""Rendering the report of a run against nbconvert's HTML page of the same run's notebook, in turns, and the bytes of both pages.

    python benchmarks/report_time.py RUN_ROOT [--rounds 5]
"""
import argparse
import shutil
import tempfile
from pathlib import Path

from nbconvert import HTMLExporter

from common import emit, in_turns, ratios, spread
from yolov10_qat.report.page import render


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run_root', type=Path)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(args.run_root, Path(folder)/'run', symlinks=True))
        def convert(): (root/'nbconvert.html').write_text(HTMLExporter().from_filename(str(root/'run.ipynb'))[0])
        seconds = in_turns(dict(report=lambda: render(root), nbconvert=convert), args.rounds)
        sizes = dict(report=(root/'report.html').stat().st_size, nbconvert=(root/'nbconvert.html').stat().st_size)
    for name, values in seconds.items(): print(f'{name:10} {spread(values, "s")}; {sizes[name]/1e6:.2f} MB')
    print(f'report / nbconvert {spread(ratios(seconds, "report", "nbconvert"))}')
    emit('report', seconds=seconds, bytes=sizes)


if __name__ == '__main__': main()
