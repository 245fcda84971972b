"""tf.train.Example without TensorFlow: its four messages, declared to protobuf, and an Example as Python values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from input_pipeline.values.chunks import Types

_KINDS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}


def _message() -> Any:
    """The class of `Example`. In a pool of its own: TensorFlow would declare the same names in the common one."""
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {"BytesList": field.TYPE_BYTES, "FloatList": field.TYPE_FLOAT, "Int64List": field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    for name, kind in scalars.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, message) in enumerate(_KINDS.items(), 1):
        kind = {"type": field.TYPE_MESSAGE, "type_name": f".tensorflow.{message}", "label": field.LABEL_OPTIONAL}
        feature.field.add(name=name, number=number, oneof_index=0, **kind)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    one = {"type": field.TYPE_MESSAGE, "label": field.LABEL_OPTIONAL}
    entry.field.add(name="value", number=2, type_name=".tensorflow.Feature", **one)
    many = {"type": field.TYPE_MESSAGE, "label": field.LABEL_REPEATED}
    features.field.add(name="feature", number=1, type_name=".tensorflow.Features.FeatureEntry", **many)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type_name=".tensorflow.Features", **one)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _message()


def decode(record: bytes, types: Types) -> dict[str, Any]:
    """An Example as a row. Bytes are UTF-8 text. A feature of no kind, and an empty one of a single value, is null.

    Where `types` does not tell, a feature of one value is that value, and of several a list.

    Raises:
      ValueError: it is not an Example, or a feature does not fit its type.
    """
    try:
        example = Example.FromString(record)
    except DecodeError as e:
        raise ValueError(f"not a tf.train.Example: {e}") from None
    row: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = None if kind is None else list(getattr(feature, kind).value)
        if kind == "bytes_list":
            try:
                values = [v.decode() for v in values or ()]
            except UnicodeDecodeError:
                raise ValueError(f"column {name!r}: expected UTF-8 text, got {values}") from None
        row[name] = values if values is None else shaped(name, values, types.get(name))
    return row


def shaped(name: str, values: list[Any], type_: pa.DataType | None) -> Any:
    """A list as its type wants it: as it is, or its only value, None without. Raises ValueError if it has more."""
    if type_ is None:
        return values[0] if len(values) == 1 else values or None
    if pa.types.is_list(type_):
        return values
    if len(values) > 1:
        raise ValueError(f"column {name!r}: expected one value, got {len(values)}: {values}")
    return values[0] if values else None
