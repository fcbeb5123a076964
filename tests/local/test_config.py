import dataclasses

import pytest
from pydantic import ValidationError

from mii.api import engine_config
from mii.config import EngineConfig
from mii.errors import InvalidRequest, MIIError, UnknownArgument
from mii.mii_config import MIIConfig, ModelConfig, parse_mii_config, parse_model_config
from mii_spec.launch import ServerArgs


def parse(**options):
    return parse_mii_config("org/model", None, None, options)


def test_the_defaults_are_deepspeeds():
    config = parse()
    assert config.deployment_name == "org/model-mii-deployment"
    assert (config.port_number, config.restful_api_port, config.enable_restful_api) == (50050, 28080, False)
    assert config.model_conf.model_dump(exclude={"inference_engine_config", "replica_configs"}) == {
        "model_name_or_path": "org/model",
        "tokenizer": None,
        "task": "text-generation",
        "tensor_parallel": 1,
        "quantization_mode": None,
        "torch_dist_port": 29500,
        "zmq_port_number": 25555,
        "replica_num": 1,
        "device_map": "auto",
        "max_length": None,
        "sync_debug": False,
        "profile_model_time": False,
    }


def test_options_may_come_by_any_way():
    by_keyword = parse(replica_num=2, port_number=1234)
    nested = parse_mii_config(
        "", {"model_name_or_path": "org/model", "replica_num": 2}, {"port_number": 1234}, {}
    )
    upstream = parse_mii_config(
        "org/model", None, {"model_conf": {"replica_num": 2}, "port_number": 1234}, {}
    )
    assert by_keyword == nested == upstream


def test_world_size_is_the_default_width(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse().model_conf.tensor_parallel == 4
    assert parse(tensor_parallel=2).model_conf.tensor_parallel == 2


def test_every_default_may_be_given_explicitly():
    config = parse()
    everything = config.model_dump(exclude={"model_conf"}) | config.model_conf.model_dump()
    assert parse_mii_config("", None, None, everything) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_mode": "wf6af16"}, "quantization_mode\n.*not supported"),
        ({"replica_configs": [{}]}, "replica_configs\n.*replica_num and device_map"),
        ({"deployment_type": "AML"}, "deployment_type\n.*kubectl apply"),
        ({"hostfile": "/hosts"}, "hostfile\n.*only this machine"),
        ({"instance_type": "large"}, "instance_type\n.*Azure"),
        ({"version": 2}, "version\n.*only version 1"),
        ({"task": "fill-mask"}, "task\n.*'text-generation'"),
        ({"tensor_parallel": 0}, "tensor_parallel\n.*greater than or equal to 1"),
        ({"replica_num": 0}, "replica_num\n"),
        ({"port_number": 70000}, "port_number\n"),
        ({"device_map": "cuda"}, "device_map"),
        ({"device_map": [-1]}, "device_map"),
        ({"max_length": 0}, "max_length\n"),
        ({"inference_engine_config": {"bogus": 1}}, "unknown option 'bogus'"),
        ({"inference_engine_config": {"state_manager": {"offload": True}}}, r"'state_manager\.offload'"),
        ({"inference_engine_config": {"kv_blocks": "many"}}, r"kv_blocks"),
        ({"inference_engine_config": {"max_running": 0}}, r"`int` >= 1 - at `\$\.max_running`"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        parse(**options)


def test_an_unknown_option_is_named():
    with pytest.raises(UnknownArgument, match=r"unknown argument 'replica_number'; there are: .*replica_num"):
        parse(replica_number=2)
    with pytest.raises(UnknownArgument, match="'port_number'"):
        parse_model_config("m", None, {"port_number": 1})


def test_contradictions_are_refused():
    with pytest.raises(InvalidRequest, match="'replica_num' is given twice, as 2 and as 3"):
        parse_mii_config("m", {"replica_num": 3}, None, {"replica_num": 2})


def test_a_model_is_required():
    with pytest.raises(ValidationError, match="model_name_or_path"):
        parse_mii_config("", None, None, {})


def test_an_empty_name_is_the_default_name():
    conf = ModelConfig(model_name_or_path="m")
    assert MIIConfig(model_conf=conf, deployment_name="").deployment_name == "m-mii-deployment"


def test_engine_options_reach_the_engine():
    deepspeeds = {"state_manager": {"max_ragged_batch_size": 512, "max_ragged_sequence_count": 8}}
    options = {"max_length": 2048, "tokenizer": "t", "inference_engine_config": deepspeeds | {"kv_blocks": 9}}
    assert engine_config(parse_model_config("m", None, options)) == EngineConfig(
        model="m", tokenizer="t", max_model_len=2048, token_budget=512, max_running=8, kv_blocks=9
    )


def test_a_launchers_ranks_do_not_each_start_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert engine_config(parse_model_config("m", None, {})).tensor_parallel == 2
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(MIIError, match=r"rank 1 of 2 by a launcher.*run it once, with tensor_parallel=2"):
        engine_config(parse_model_config("m", None, {}))


def test_a_pipeline_runs_on_the_device_of_the_map():
    assert engine_config(parse_model_config("m", None, {"device_map": [[3]]})).device == "cuda:3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replica_num": 2}, "replica_num is 2: a pipeline is one replica; mii.serve starts more"),
        ({"device_map": [0, 1]}, "one GPU"),
        ({"sync_debug": True}, "CUDA_LAUNCH_BLOCKING=1"),
    ],
)
def test_what_a_pipeline_cannot_do(options, message, monkeypatch):
    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
    with pytest.raises(MIIError, match=message):
        engine_config(parse_model_config("m", None, options))


def test_every_engine_option_is_a_server_option():
    """mii.serve passes inference_engine_config on to `mii serve`."""
    assert {field.name for field in dataclasses.fields(ServerArgs)} >= set(EngineConfig.__struct_fields__)
