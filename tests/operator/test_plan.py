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


def names(items):
    return [item["name"] for item in items]


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
        replica=("mistral-server.prod.svc:8000/50050",),
        queue_max_requests=7,
        queue_timeout=1.5,
        drain_timeout=90.0,
    )


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


def test_children_come_before_what_refers_to_them(deployment, facts):
    made = plan(deployment(cache={"size": "1Gi"}), facts())
    kinds = [c["kind"] for c in made.children]
    assert kinds == [
        "ServiceAccount",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "PersistentVolumeClaim",
        "Service",
        "Service",
        "NetworkPolicy",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodDisruptionBudget",
        "Deployment",
        "Deployment",
        "ServiceMonitor",
        "ServiceMonitor",
    ]


def test_every_child_is_owned_labelled_and_unique(deployment, facts):
    made = plan(deployment(cache={"size": "1Gi"}), facts())
    for item in made.children:
        metadata = item["metadata"]
        assert metadata["namespace"] == "prod"
        assert [o["uid"] for o in metadata["ownerReferences"]] == ["0f8f-uid"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == "mistral"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "mii-operator"
    assert len({(c["kind"], c["metadata"]["name"]) for c in made.children}) == len(made.children)


def test_what_the_api_server_lacks_is_replaced_or_left_out(deployment, facts, oldest):
    made = plan(deployment(), facts(capabilities=oldest))
    budgets = [c["apiVersion"] for c in made.children if c["kind"] == "PodDisruptionBudget"]
    assert budgets == ["policy/v1beta1"] * 2
    assert not [c for c in made.children if c["kind"] == "ServiceMonitor"]
    neither = dataclasses.replace(oldest, disruption_budget=None)
    made = plan(deployment(), facts(capabilities=neither))
    assert not [c for c in made.children if c["kind"] == "PodDisruptionBudget"]


def test_services_find_the_pods_they_are_for(deployment, facts):
    made = plan(deployment(), facts())
    for service, pods in (("mistral", "mistral-gateway"), ("mistral-server", "mistral-server")):
        template = child(made, "Deployment", pods)["spec"]["template"]
        selector = child(made, "Service", service)["spec"]["selector"]
        assert selector.items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert {p["targetPort"] for p in child(made, "Service", service)["spec"]["ports"]} <= ports
    assert child(made, "Service", "mistral-server")["spec"]["clusterIP"] == "None"
    ports = child(made, "Service", "mistral")["spec"]["ports"]
    assert {p["name"]: p["port"] for p in ports} == {"http": 80, "grpc": 50050}


def test_replicas_belong_to_the_autoscaler_while_it_is_set(deployment, facts):
    fixed = plan(deployment(replicas=3), facts())
    scaled = plan(deployment(replicas=3, autoscaling={"min": 2, "max": 4}), facts())
    assert child(fixed, "Deployment", "mistral-server")["spec"]["replicas"] == fixed.replicas == 3
    assert "replicas" not in child(scaled, "Deployment", "mistral-server")["spec"]
    assert scaled.replicas == 2


def test_loading_and_draining_get_the_time_that_the_manifest_gives(deployment, facts):
    made = plan(deployment(rollout={"drainTimeout": "90500ms", "startupTimeout": "1h"}), facts())
    for name in ("mistral-server", "mistral-gateway"):
        pod = child(made, "Deployment", name)["spec"]["template"]["spec"]
        stop = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert pod["terminationGracePeriodSeconds"] >= int(stop[-1]) + 90.5
    probe = server_pod(made)["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    deadline = child(made, "Deployment", "mistral-server")["spec"]["progressDeadlineSeconds"]
    assert deadline > 3600


def test_the_cache_is_where_the_manifest_says(deployment, facts):
    def volume(**cache):
        made = plan(deployment(cache=cache), facts())
        claims = [c for c in made.children if c["kind"] == "PersistentVolumeClaim"]
        return next(v for v in server_pod(made)["volumes"] if v["name"] == "cache"), claims

    assert volume() == ({"name": "cache", "emptyDir": {}}, [])
    found, claims = volume(claimName="mine")
    assert (found["persistentVolumeClaim"], claims) == ({"claimName": "mine"}, [])
    found, [claim] = volume(size="5Gi", storageClassName="fast")
    assert found["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == "mistral-cache"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    }


@pytest.mark.parametrize(
    ("spec", "existing", "modes"),
    [
        ({"replicas": 2}, (), ["ReadWriteMany"]),
        ({"autoscaling": {"min": 1, "max": 2}}, (), ["ReadWriteMany"]),
        ({"replicas": 2}, ("ReadWriteOnce",), ["ReadWriteOnce"]),
    ],
)
def test_a_shared_cache_is_asked_for_once(deployment, facts, spec, existing, modes):
    made = plan(deployment(cache={"size": "5Gi"}, **spec), facts(cache_access_modes=existing))
    assert child(made, "PersistentVolumeClaim", "mistral-cache")["spec"]["accessModes"] == modes


@pytest.mark.parametrize(
    ("model", "argument"),
    [
        ("pvc://models/llama/8b", "/model/llama/8b"),
        ("pvc://models", "/model"),
        ("file:///opt/m.gguf", "/opt/m.gguf"),
        ("https://host/m.gguf", "https://host/m.gguf"),
    ],
)
def test_a_model_from_elsewhere(deployment, facts, model, argument):
    made = plan(deployment(model=model), facts())
    args = parse(ServerArgs, made.server["args"])
    assert args.model == argument
    assert args.served_model_name == (None if argument == model else model)
    pod = server_pod(made)
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert set(names(pod["volumes"])) == set(mounts)
    if model.startswith("pvc"):
        assert mounts["model"] == {"name": "model", "mountPath": "/model", "readOnly": True}
    else:
        assert "model" not in mounts


def test_secrets_are_named_never_shown(deployment, facts):
    made = plan(
        deployment(
            tokenSecretRef={"name": "hf", "key": "token"},
            gateway={"apiKeysSecretRef": {"name": "keys"}, "tlsSecretRef": {"name": "cert"}},
        ),
        facts(),
    )
    token = next(v for v in made.server["env"] if v["name"] == "HF_TOKEN")
    assert token == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
    gateway = child(made, "Deployment", "mistral-gateway")["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in gateway["volumes"] if "secret" in v}
    assert secrets == {"api-keys": "keys", "tls": "cert"}
    paths = {m["name"]: m["mountPath"] for m in gateway["containers"][0]["volumeMounts"]}
    options = parse(GatewayArgs, made.gateway["args"])
    assert (options.api_keys_dir, options.tls_dir) == (paths["api-keys"], paths["tls"])


def test_the_overlay_reaches_the_pods(deployment, facts):
    overlay = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}},
        "spec": {
            "nodeSelector": {"zone": "1"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "containers": [
                {
                    "name": "server",
                    "resources": {"requests": {"cpu": 8}},
                    "env": [{"name": "X", "value": "1"}],
                },
                {"name": "sidecar", "image": "busybox"},
            ],
        },
    }
    made = plan(deployment(podTemplate=overlay), facts())
    template = child(made, "Deployment", "mistral-server")["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    pod = template["spec"]
    assert names(pod["containers"]) == ["server", "sidecar"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "8"}}
    assert names(pod["containers"][0]["env"]) == ["HOME", "HF_HOME", "X"]
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert pod["nodeSelector"] == {"zone": "1"}


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
    assert parse(GatewayArgs, made.gateway["args"]).replica == ()


def test_processes_run_the_command_lines_of_pods(deployment, facts):
    """But for the gateway's replicas, which are addresses on either side."""
    here = plan(deployment(gpus=1), Facts(model=facts().model, gpu=facts().gpu))
    there = plan(deployment(gpus=1), facts())
    assert here.server["args"] == there.server["args"]
    assert [a for a in there.gateway["args"] if not a.startswith("--replica")] == here.gateway["args"]
