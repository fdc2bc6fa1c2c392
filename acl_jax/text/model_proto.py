# SPDX-License-Identifier: Apache-2.0
"""Protobuf messages of sentencepiece model files: the fields that we read and write.

Fields that are not declared here survive a round trip unchanged. sentencepiece's own
declaration needs a newer protobuf than Apache Beam accepts. Source: its
`sentencepiece_model.proto`.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

BPE = 2  # TrainerSpec.model_type

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
  'Piece': (('piece', 1, 'STRING'), ('score', 2, 'FLOAT'), ('type', 3, 'INT32')),
  'TrainerSpec': (
    ('model_type', 3, 'INT32'),
    ('byte_fallback', 35, 'BOOL'),
    ('eos_piece', 47, 'STRING'),
  ),
  'NormalizerSpec': (
    ('name', 1, 'STRING'),
    ('add_dummy_prefix', 3, 'BOOL'),
    ('remove_extra_whitespaces', 4, 'BOOL'),
  ),
  'ModelProto': (
    ('pieces', 1, 'Piece'),
    ('trainer_spec', 2, 'TrainerSpec'),
    ('normalizer_spec', 3, 'NormalizerSpec'),
  ),
}


def _declare_messages() -> Any:
  """Register the messages with protobuf; returns the class of `ModelProto`."""
  file = descriptor_pb2.FileDescriptorProto(
    name='acl_jax/model.proto', package='acl_jax', syntax='proto2'
  )
  for name, fields in _MESSAGES.items():
    message = file.message_type.add(name=name)
    for field, number, kind in fields:
      repeated = field == 'pieces'
      label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
      declared = message.field.add(name=field, number=number, label=label)
      if kind in _MESSAGES:
        declared.type = _Field.TYPE_MESSAGE
        declared.type_name = f'.acl_jax.{kind}'
      else:
        declared.type = getattr(_Field, f'TYPE_{kind}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  descriptor = pool.FindMessageTypeByName('acl_jax.ModelProto')
  return message_factory.GetMessageClass(descriptor)


ModelProto = _declare_messages()
