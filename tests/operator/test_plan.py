"""What a manifest turns into."""

import dataclasses

import pytest

from mii_operator.facts import Facts
from mii_operator.local import local_facts
from mii_operator.plan import PlanRefused, plan
from mii_spec.launch import GatewayArgs, ServerArgs, parse
from mii_spec.sizing import GIB, GpuFacts


def child(made, kind, name):
    return next(c for c in made.children if c["kind"] == kind and c["metadata"]["name"] == name)


def server_pod(made):
    return child(made, "Deployment", "mistral-server")["spec"]["template"]["spec"]


def test_the_command_lines_parse(deployment, facts):
    made = plan(
        deployment(
            servedName="m",
            gpus=2,
            engine={
                "dtype": "bfloat16",
                "maxModelLen": 4096,
                "kvMemoryFraction": 0.5,
                "tokenBudget": 1024,
                "args": ["--max-running=8", "--no-prefix-cache"],
            },
            gateway={"queue": {"maxRequests": 7, "timeout": "1500ms"}},
            rollout={"drainTimeout": "90s"},
        ),
        facts(),
    )
    assert made.server["command"] == ["mii", "serve"]
    assert parse(ServerArgs, made.server["args"]) == ServerArgs(
        model="mistralai/Mistral-7B-Instruct-v0.3",
        served_model_name="m",
        deployment_name="mistral",
        host="0.0.0.0",
        device="cuda",
        dtype="bfloat16",
        max_model_len=4096,
        token_budget=1024,
        kv_memory_fraction=0.5,
        tensor_parallel=2,
        drain_timeout=90.0,
        max_running=8,
        prefix_cache=False,
    )
    assert made.gateway["command"] == ["mii-gateway"]
    assert parse(GatewayArgs, made.gateway["args"]) == GatewayArgs(
        deployment_name="mistral",
        host="0.0.0.0",
        endpoints_service="mistral-server",
        queue_max_requests=7,
        queue_timeout=1.5,
        drain_timeout=90.0,
    )


def test_quantisation_halves_the_gpus(deployment, facts):
    """A GPU of 16 GiB holds Mistral-7B in 8 bits, not in 16."""
    small = GpuFacts(memory_bytes=16 * GIB, per_node=4)
    for quantization, gpus in (("none", 2), ("fp8", 1)):
        made = plan(
            deployment(engine={"quantization": quantization}), dataclasses.replace(facts(), gpu=small)
        )
        assert parse(ServerArgs, made.server["args"]).quantization == quantization
        assert made.choice.gpus == gpus


def test_gpus_become_width_and_devices(deployment, facts):
    made = plan(deployment(gpus=2), facts())
    assert "--tensor-parallel=2" in made.server["args"]
    assert server_pod(made)["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert server_pod(made)["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_without_gpus_it_runs_on_the_cpu(deployment, facts):
    for made in (plan(deployment(gpus=0), facts()), plan(deployment(), facts(gpus=0))):
        assert "--device=cpu" in made.server["args"]
        assert server_pod(made)["containers"][0]["resources"] == {}
        assert "tolerations" not in server_pod(made)


def test_another_accelerator(deployment, facts):
    accelerator = {"resource": "nvidia.com/gpu.shared", "product": "NVIDIA-L4"}
    made = plan(deployment(accelerator=accelerator), facts())
    assert server_pod(made)["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu.shared": "1"}}
    assert server_pod(made)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}


@pytest.mark.parametrize(
    ("gpus", "memory", "reason"),
    [(3, 80, "InvalidParallelism"), (1, 8, "ModelDoesNotFit"), ("auto", 1, "ModelDoesNotFit")],
)
def test_what_cannot_run_is_refused_before_anything_exists(deployment, facts, gpus, memory, reason):
    small = dataclasses.replace(facts(), gpu=GpuFacts(memory_bytes=memory * GIB, per_node=8))
    with pytest.raises(PlanRefused) as caught:
        plan(deployment(gpus=gpus), small)
    assert caught.value.reason == reason
    assert "32 attention heads" in str(caught.value) or "weights 13.50 GiB" in str(caught.value)


def test_the_dtype_counts_for_sizing(deployment, facts):
    tight = dataclasses.replace(facts(), gpu=GpuFacts(memory_bytes=24 * GIB, per_node=8))
    assert plan(deployment(), tight).choice.gpus == 1
    assert plan(deployment(engine={"dtype": "float32"}), tight).choice.gpus == 2


def test_the_same_input_gives_the_same_plan_and_is_not_changed(deployment, facts):
    spec = {"podTemplate": {"spec": {"volumes": [{"name": "x", "emptyDir": {}}]}}}
    one = plan(deployment(**spec), facts())
    kept = deployment(**spec)
    for item in plan(kept, facts()).children:
        item["metadata"]["labels"].clear()
        item.get("spec", {}).get("template", {}).get("spec", {}).clear()
    assert kept == deployment(**spec)
    assert plan(kept, facts()) == one


def test_a_plan_for_processes(deployment):
    made = plan(deployment(replicas=2, cache={"size": "1Gi"}), local_facts())
    assert made.children == ()
    assert made.replicas == 2
    assert made.server == {
        "name": "server",
        "command": ["mii", "serve"],
        "args": [
            "mistralai/Mistral-7B-Instruct-v0.3",
            "--deployment-name=mistral",
            "--host=0.0.0.0",
            "--device=cpu",
        ],
        "env": [],
    }
    assert parse(GatewayArgs, made.gateway["args"]).endpoints_service is None


def test_processes_run_the_command_lines_of_pods(deployment, facts):
    """But for the gateway's replicas, which here are addresses that `mii up` adds."""
    here = plan(deployment(gpus=1), Facts(model=facts().model, gpu=facts().gpu))
    there = plan(deployment(gpus=1), facts())
    assert here.server["args"] == there.server["args"]
    there.gateway["args"].remove("--endpoints-service=mistral-server")
    assert there.gateway["args"] == here.gateway["args"]
