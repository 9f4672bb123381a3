"Servers that send another file, another part, too much, too slowly, or send us elsewhere: nothing of it is kept or opened."
import hashlib
import http.client
import io
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.request import Request

import pytest

from conftest import command
from yolov10_qat.checkpoint.base_weights import OFFICIAL, BaseWeights, WeightsError, find_base
from yolov10_qat.core import fetch
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.fetch import FetchError, WrongPart, receive
from yolov10_qat.core.layout import Layout


def archive(seed=0):
    "Bytes of a zip archive."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z: z.writestr('data.pkl', bytes((i*7+seed) % 251 for i in range(50_000)))
    return buffer.getvalue()


WHOLE = archive()
SHA256 = hashlib.sha256(WHOLE).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get('Range'))
        self.server.answer(self)

    def reply(self, status, body=b'', **headers):
        "One answer; a header of None is left out."
        headers = {'Content_Length': len(body)} | headers
        self.send_response(status)
        for k, v in headers.items():
            if v is not None: self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *_): "A client that hangs up is what these tests are about."


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Server(('127.0.0.1', 0), Handler) as server:
        server.asked, server.answer = [], lambda h: h.reply(200, WHOLE)
        threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
        server.url = f'http://127.0.0.1:{server.server_port}/yolov10n.pt'
        for variant, sha256, size in (('yolo10n', SHA256, len(WHOLE)), ('yolo10b', None, None)):
            monkeypatch.setitem(OFFICIAL, variant, replace(OFFICIAL[variant], url=server.url, size=size, sha256=sha256))
        monkeypatch.setenv('YOLOV10_QAT_WEIGHTS', str(tmp_path/'weights'))
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        yield server
        server.shutdown()


@pytest.fixture
def part(tmp_path):
    "The first 20,000 bytes of the file, left by an earlier try."
    (tmp_path/'weights').mkdir()
    file = tmp_path/'weights'/'.yolov10n.pt.part'
    file.write_bytes(WHOLE[:20_000])
    return file


def refused(tmp_path, variant='yolo10n'):
    "The one line of a refusal; no file has the name of the weights."
    with pytest.raises(WeightsError) as error: find_base(variant)
    text = str(error.value)
    assert '\n' not in text and OFFICIAL[variant].url in text and '--base' in text
    assert not [p for p in (tmp_path/'weights').iterdir() if not p.name.startswith('.')]
    return text


def test_another_file_is_removed_and_both_digests_are_told(server, tmp_path):
    other = archive(1)
    assert len(other) == len(WHOLE)
    server.answer = lambda h: h.reply(200, other)
    text = refused(tmp_path)
    assert hashlib.sha256(other).hexdigest() in text and SHA256 in text and 'it was removed' in text
    assert not (tmp_path/'weights'/'.yolov10n.pt.part').exists()
    assert len(server.asked) == 1  # asking again would bring the same


def test_a_file_that_lies_there_is_held_against_the_table(server, tmp_path):
    (tmp_path/'weights').mkdir()
    file = tmp_path/'weights'/'yolov10n.pt'
    file.write_bytes(archive(1))
    with pytest.raises(WeightsError, match=f'{hashlib.sha256(archive(1)).hexdigest()}.*{SHA256}.*name it with --base'):
        find_base('yolo10n')
    assert file.is_file() and server.asked == []  # it is the user's; named with --base it is what they say
    assert find_base('yolo10n', file).path == file


def test_a_size_without_digest_is_told(server, tmp_path):
    found = find_base('yolo10b')
    assert found.path.read_bytes() == WHOLE and SHA256 in found.warning and 'knows no digest' in found.warning
    assert 'knows no digest' in find_base('yolo10b').warning and len(server.asked) == 1


def test_a_size_without_digest_must_be_an_archive(server, tmp_path):
    server.answer = lambda h: h.reply(200, b'<html>')
    assert 'not a PyTorch file' in refused(tmp_path, 'yolo10b')


@pytest.mark.parametrize('said', ['bytes 0-{last}/{size}', 'bytes 19999-{last}/{size}', 'bytes 20001-{last}/{size}', None,
                                  'pages 20000-{last}/{size}', 'bytes 20000-{last}/{more}', 'bytes */{size}',
                                  'bytes 20000-20009/{size}', 'bytes 20000-x/{size}'])
def test_a_wrong_range_is_not_appended(server, part, tmp_path, said):
    said = said and said.format(last=len(WHOLE)-1, size=len(WHOLE), more=len(WHOLE)+1)
    def answer(h): h.reply(206, b'x'*(len(WHOLE)-20_000), Content_Range=said) if h.headers['Range'] else h.reply(200, WHOLE)
    server.answer = answer
    assert find_base('yolo10n').path.read_bytes() == WHOLE
    assert server.asked == ['bytes=20000-', None]


@pytest.mark.parametrize('start', [0, 19_999, 20_001])
def test_nothing_of_a_wrong_range_is_written(server, part, start):
    "Not even for the digest to find out."
    server.answer = lambda h: h.reply(206, WHOLE[20_000:], Content_Range=f'bytes {start}-{len(WHOLE)-1}/{len(WHOLE)}')
    with pytest.raises(WrongPart, match='asked for the bytes from 20000 on'): receive(server.url, part, len(WHOLE))
    assert part.read_bytes() == WHOLE[:20_000]


@pytest.mark.parametrize('total', [len(WHOLE), '*'])
def test_the_right_range_is_appended(server, part, total):
    server.answer = lambda h: h.reply(206, WHOLE[20_000:], Content_Range=f'bytes 20000-{len(WHOLE)-1}/{total}')
    assert find_base('yolo10n').path.read_bytes() == WHOLE and server.asked == ['bytes=20000-']


def test_everything_for_a_range_replaces_what_was_there(server, part):
    part.write_bytes(b'?'*20_000)
    assert find_base('yolo10n').path.read_bytes() == WHOLE and server.asked == ['bytes=20000-']


def test_a_range_nobody_asked_for_is_refused(server, tmp_path):
    server.answer = lambda h: h.reply(206, WHOLE[5:], Content_Range=f'bytes 5-{len(WHOLE)-1}/{len(WHOLE)}')
    assert "asked for the bytes from 0 on and sent 'bytes 5-" in refused(tmp_path) and len(server.asked) == 3


def test_nothing_beyond_what_is_there_but_that_is_another_file(server, part):
    server.answer = lambda h: h.reply(416) if h.headers['Range'] else h.reply(200, WHOLE)
    assert find_base('yolo10n').path.read_bytes() == WHOLE and server.asked == ['bytes=20000-', None]


def test_416_to_a_plain_request(server, tmp_path):
    server.answer = lambda h: h.reply(416)
    assert '416' in refused(tmp_path)


@pytest.mark.parametrize('status', [201, 203, 204])
def test_other_answers_bring_no_file(server, tmp_path, status):
    server.answer = lambda h: h.reply(status)
    assert f'answers {status}' in refused(tmp_path)


@pytest.mark.parametrize('length', [1, len(WHOLE)-1, len(WHOLE)+1, 10**14])
def test_a_wrong_length_is_another_file(server, tmp_path, length):
    server.answer = lambda h: h.reply(200, WHOLE, Content_Length=length)
    assert f'announces {length:,} bytes, expected {len(WHOLE):,}' in refused(tmp_path)


@pytest.mark.parametrize('length', [None, 'many', '-5'])
def test_no_length_is_no_reason_to_refuse(server, length):
    server.answer = lambda h: h.reply(200, WHOLE, Content_Length=length)
    assert find_base('yolo10n').path.read_bytes() == WHOLE


def test_too_few_bytes_without_a_length_are_a_cut(server, tmp_path):
    server.answer = lambda h: h.reply(200, WHOLE[:30_000], Content_Length=None)
    assert 'cut after 30000 bytes' in refused(tmp_path) and len(server.asked) == 3


def endless(handler):
    handler.reply(200, Content_Length=None)
    while True: handler.wfile.write(b'x'*65_536)


@pytest.mark.parametrize('variant', ['yolo10n', 'yolo10b'])
def test_an_endless_body_ends(server, tmp_path, monkeypatch, variant):
    monkeypatch.setattr(fetch, 'MOST_BYTES', 200_000)
    server.answer = endless
    most = OFFICIAL[variant].size or 200_000
    assert f'sends more than {most:,} bytes' in refused(tmp_path, variant)
    assert (tmp_path/'weights'/f'.{OFFICIAL[variant].name}.part').stat().st_size == 0


def silent(handler): time.sleep(3)


def crawling(handler):
    handler.reply(200, Content_Length=len(WHOLE))
    for _ in range(300):
        handler.wfile.write(b'x')
        time.sleep(.01)


def crawling_headers(handler):
    for c in b'HTTP/1.0 200 OK\r\nServer: ' + b'x'*300:
        handler.wfile.write(bytes([c]))
        time.sleep(.01)


@pytest.mark.parametrize('answer, piece', [(silent, 'no answer came within'), (crawling_headers, 'no answer came within'),
                                           (crawling, 'bytes came in')])
def test_a_crawling_server_is_left(server, tmp_path, monkeypatch, answer, piece):
    "No two bytes are far apart, so no time limit of a socket would end it."
    monkeypatch.setattr(fetch, 'WINDOW_S', .3)
    monkeypatch.setattr(fetch, 'LEAST_BYTES', 1000)
    server.answer = answer
    assert piece in refused(tmp_path) and len(server.asked) == 3


def test_what_crawled_is_kept(server, tmp_path, monkeypatch):
    "Each try is too slow and brings something; the next goes on behind it."
    monkeypatch.setattr(fetch, 'WINDOW_S', .3)
    monkeypatch.setattr(fetch, 'LEAST_BYTES', 10**6)
    def answer(h):
        start = int((h.headers['Range'] or 'bytes=0-')[6:-1])
        body = WHOLE[start:start+10_000]
        h.reply(206 if start else 200, body, Content_Length=len(WHOLE)-start,
                Content_Range=f'bytes {start}-{len(WHOLE)-1}/{len(WHOLE)}' if start else None)
        time.sleep(3)
    server.answer = answer
    assert 'only 10,000 bytes came in' in refused(tmp_path)
    assert (tmp_path/'weights'/'.yolov10n.pt.part').read_bytes() == WHOLE[:30_000]
    assert server.asked == [None, 'bytes=10000-', 'bytes=20000-']


@pytest.mark.parametrize('where', ['file:///etc/hostname', 'ftp://127.0.0.1/x', 'data:,x', 'gopher://127.0.0.1/'])
def test_no_other_kind_of_address_is_followed(server, tmp_path, where):
    server.answer = lambda h: h.reply(302, Location=where)
    refused(tmp_path)
    assert not (tmp_path/'weights'/'.yolov10n.pt.part').exists()


def test_a_redirect_is_followed(server):
    server.answer = lambda h: h.reply(200, WHOLE) if h.path == '/there' else h.reply(302, Location='/there')
    assert find_base('yolo10n').path.read_bytes() == WHOLE


def test_redirects_without_end(server, tmp_path):
    server.answer = lambda h: h.reply(302, Location=f'{h.path}x')
    assert '302' in refused(tmp_path)


def test_https_is_not_left():
    follow = fetch._Redirects().redirect_request
    how = (None, 302, 'Found', http.client.HTTPMessage())
    with pytest.raises(FetchError, match='sends us on to http://b/x, which is not https'):
        follow(Request('https://a/x'), *how, 'http://b/x')
    assert follow(Request('https://a/x'), *how, 'https://b/x').full_url == 'https://b/x'
    assert follow(Request('http://a/x'), *how, 'https://b/x').full_url == 'https://b/x'


def test_a_line_of_the_server_cannot_fake_ours(server, tmp_path):
    server.answer = lambda h: h.reply(206, b'x', Content_Range='bytes \x1b[2K 5-6/7')
    assert '\x1b' not in refused(tmp_path)


def test_a_part_longer_than_the_file(server, part):
    part.write_bytes(WHOLE + b'x')
    with pytest.raises(WrongPart): receive(server.url, part, len(WHOLE))
    assert find_base('yolo10n').path.read_bytes() == WHOLE and server.asked == [None]


def test_what_there_is_to_say_is_said_to_the_user(tmp_path, monkeypatch):
    from yolov10_qat.pipeline import experiment
    said = []
    monkeypatch.setattr(experiment, 'log_note', said.append)
    monkeypatch.setattr(experiment, 'find_base', lambda *_, **__: BaseWeights(tmp_path/'b.pt', '0'*64, 'no digest is known'))
    sources = experiment._Sources.__new__(experiment._Sources)
    sources.config, sources.files, sources.root = RunConfig(run_root=str(tmp_path)), Layout(tmp_path), tmp_path
    sources.summary = SimpleNamespace()
    sources._find_weights()
    assert said == ['no digest is known']


def test_the_console_says_it(tiny, tmp_path, monkeypatch):
    (tmp_path/'weights').mkdir()
    (tmp_path/'weights'/'yolov10n.pt').write_bytes(WHOLE)
    monkeypatch.setenv('YOLOV10_QAT_WEIGHTS', str(tmp_path/'weights'))
    done = command('run', '--coco-root', tiny/'coco', '--imgsz', 64, '--epochs', 1, '--batch', 2, '--method', 'ema', '--run-root',
                   tmp_path/'r')
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == 1 and len(lines) == 1 and SHA256 in lines[0] and OFFICIAL['yolo10n'].sha256 in lines[0]
