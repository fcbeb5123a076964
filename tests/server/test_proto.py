"""The committed messages are those of the .proto file."""

import subprocess
import sys
from importlib.resources import as_file, files

from google.protobuf import descriptor_pb2

from mii.server.proto import modelresponse_pb2

PATH = "mii/server/proto/modelresponse.proto"


def test_committed_messages_match_the_proto(tmp_path):
    out = tmp_path / "set.pb"
    with as_file(files("mii")) as package:
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"-I{package.parent}", "--include_imports",
                f"--descriptor_set_out={out}", PATH,
            ],
            check=True,
        )  # fmt: skip
    described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    committed = descriptor_pb2.FileDescriptorProto()
    modelresponse_pb2.DESCRIPTOR.CopyToProto(committed)
    fresh = next(file for file in described.file if file.name.endswith("modelresponse.proto"))
    for file in (fresh, committed):
        for message in _all(file.message_type):
            for field in message.field:
                field.ClearField("json_name")
    assert fresh == committed


def _all(messages):
    for message in messages:
        yield message
        yield from _all(message.nested_type)


def test_field_numbers_are_deepspeed_miis():
    fields = {
        name: {field.name: field.number for field in message.fields}
        for name, message in modelresponse_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    assert fields["MultiStringRequest"] == {"request": 1, "query_kwargs": 2}
    assert fields["MultiGenerationReply"] == {"response": 1}
    assert fields["SingleGenerationReply"] == {
        "response": 1, "finish_reason": 2, "prompt_tokens": 3, "generated_tokens": 4,
        "time_taken": 5, "model_time_taken": 6,
    }  # fmt: skip
    upstream = {"svalue": 1, "ivalue": 2, "fvalue": 3, "bvalue": 4, "mvalue": 5}
    assert upstream.items() <= fields["Value"].items()
    assert min(set(fields["Value"].values()) - set(upstream.values())) >= 16
