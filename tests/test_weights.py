"Downloading base weights from servers that behave, cut, ignore ranges, refuse and lie; all on 127.0.0.1."
import hashlib
import io
import random
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from yolov10_qat.checkpoint import base_weights as weights
from yolov10_qat.checkpoint.base_weights import OFFICIAL, WeightsError, find_base
from yolov10_qat.core.files import file_sha256


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get('Range'))
        if server.status: return self.send_error(server.status)
        start = int(self.headers['Range'][6:-1]) if self.headers.get('Range') and server.ranges else 0
        size = len(server.content)
        if start >= size:
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{size}')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{size-1}/{size}')
        self.send_header('Content-Length', str(size-start))
        self.end_headers()
        self.wfile.write(server.content[start:server.cuts.pop(0) if server.cuts else size])

    def log_message(self, *args): pass


def pack(seed=0, size=300_000):
    "Bytes of a zip archive that no compression shortens."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive: archive.writestr('data.pkl', random.Random(seed).randbytes(size))
    return buffer.getvalue()


@pytest.fixture
def server():
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.content, server.status, server.ranges, server.cuts, server.asked = pack(), None, True, [], []
        threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(server, tmp_path, monkeypatch):
    "The weights folder of a user whose table points at `server`."
    sha256 = hashlib.sha256(server.content).hexdigest()
    url = f'http://127.0.0.1:{server.server_port}/yolov10n.pt'
    monkeypatch.setitem(OFFICIAL, 'yolo10n',
                        replace(OFFICIAL['yolo10n'], url=url, size=len(server.content), sha256=sha256))
    monkeypatch.setenv('YOLOV10_QAT_WEIGHTS', str(tmp_path/'weights'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path/'weights'


def visible(folder): return sorted(p.name for p in folder.iterdir() if not p.name.startswith('.'))


def test_full_download_once(server, folder):
    seen = []
    found = find_base('yolo10n', progress=lambda *step: seen.append(step))
    assert found.path == folder/'yolov10n.pt' and found.path.read_bytes() == server.content
    assert found.sha256 == file_sha256(found.path) and found.warning is None
    assert seen[-1] == (len(server.content), len(server.content), 'yolov10n.pt')
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert find_base('yolo10n') == found and server.asked == [None]  # the second time nothing is asked


def test_cut_connection_is_resumed(server, folder):
    server.cuts = [100_000, 200_000]
    assert find_base('yolo10n').path.read_bytes() == server.content
    assert server.asked == [None, 'bytes=100000-', 'bytes=200000-']


def test_interrupted_download_is_resumed_by_the_next_command(server, folder):
    def interrupt(done, total, what):
        if done > 100_000: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): find_base('yolo10n', progress=interrupt)
    assert visible(folder) == []
    assert find_base('yolo10n').path.read_bytes() == server.content
    start = int(server.asked[1][6:-1])
    assert 100_000 < start < len(server.content)


def test_truncated_every_time(server, folder):
    server.cuts = [1000, 2000, 3000]
    with pytest.raises(WeightsError, match='cut after 3000 bytes'): find_base('yolo10n')
    assert visible(folder) == [] and (folder/'.yolov10n.pt.part').read_bytes() == server.content[:3000]


def test_server_without_ranges(server, folder):
    server.cuts, server.ranges = [100_000], False
    assert find_base('yolo10n').path.read_bytes() == server.content
    assert server.asked == [None, 'bytes=100000-']


def test_whole_part_is_used(server, folder):
    folder.mkdir()
    (folder/'.yolov10n.pt.part').write_bytes(server.content)
    assert find_base('yolo10n').warning is None and len(server.asked) == 1


@pytest.mark.parametrize('part', [pack(seed=1)[:100_000], pack(seed=1, size=400_000)[:-100]], ids=['shorter', 'longer'])
def test_part_of_another_file_is_thrown_away(server, folder, part):
    folder.mkdir()
    (folder/'.yolov10n.pt.part').write_bytes(part)
    found = find_base('yolo10n')
    assert found.path.read_bytes() == server.content and found.warning is None
    assert server.asked[-1] is None


def test_login_page_is_no_weights(server, folder):
    server.content = b'<html>Please log in</html>'
    with pytest.raises(WeightsError, match='announces 26 bytes, expected'): find_base('yolo10n')
    assert visible(folder) == []


def test_not_found(server, folder):
    server.status = 404
    with pytest.raises(WeightsError, match='404') as error: find_base('yolo10n')
    text = str(error.value)
    assert OFFICIAL['yolo10n'].url in text and str(
        folder/'yolov10n.pt') in text and '--base' in text and '\n' not in text
    assert visible(folder) == []


def test_unreachable(server, folder):
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError, match='refused') as error: find_base('yolo10n')
    assert str(folder/'yolov10n.pt') in str(error.value)


def test_unwritable_folder(server, folder):
    folder.write_text('a file where the folder should be')
    with pytest.raises(WeightsError, match='could not download'): find_base('yolo10n')


def test_digest_mismatch_is_refused_with_both(server, folder, monkeypatch):
    monkeypatch.setitem(OFFICIAL, 'yolo10n', replace(OFFICIAL['yolo10n'], sha256='0'*64))
    with pytest.raises(WeightsError, match=f"{hashlib.sha256(server.content).hexdigest()}.*{'0'*64}"):
        find_base('yolo10n')
    assert visible(folder) == [] and not (folder/'.yolov10n.pt.part').exists()


def test_one_download_at_a_time(server, folder, monkeypatch):
    def busy(root): raise weights.RunLocked('in use')
    monkeypatch.setattr(weights, 'RunLock', busy)
    with pytest.raises(WeightsError, match='another process'): find_base('yolo10n')


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', pack()[:-200]], ids=['empty', 'text', 'truncated'])
def test_named_base_must_be_whole(tmp_path, content):
    (tmp_path/'mine.pt').write_bytes(content)
    with pytest.raises(WeightsError, match=rf'{len(content)} bytes.*cut short'):
        find_base('yolo10n', tmp_path/'mine.pt')


def test_named_base_missing(tmp_path):
    (tmp_path/'mine.pt').write_bytes(pack())
    with pytest.raises(FileNotFoundError, match="did you mean 'mine.pt'"): find_base('yolo10n', tmp_path/'mime.pt')
    with pytest.raises(FileNotFoundError, match='it is a folder'): find_base('yolo10n', tmp_path)
    with pytest.raises(FileNotFoundError, match='missing or empty'): find_base('yolo10n', tmp_path/'no'/'mine.pt')


def test_broken_file_in_the_weights_folder(server, folder):
    folder.mkdir()
    (folder/'yolov10n.pt').write_bytes(server.content[:-200])
    with pytest.raises(WeightsError, match='cut short'): find_base('yolo10n')
    assert server.asked == []
