"""The Kubernetes objects of a plan."""

import dataclasses

import pytest

from mii_operator.plan import PlanRefused, plan
from mii_spec.launch import GatewayArgs, ServerArgs, parse


def child(made, kind, name):
    return next(c for c in made.children if c["kind"] == kind and c["metadata"]["name"] == name)


def server_pod(made):
    return child(made, "Deployment", "mistral-server")["spec"]["template"]["spec"]


def names(items):
    return [item["name"] for item in items]


def test_children_come_before_what_refers_to_them(deployment, facts):
    made = plan(deployment(cache={"size": "1Gi"}), facts())
    kinds = [c["kind"] for c in made.children]
    assert kinds == [
        "ServiceAccount",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "PersistentVolumeClaim",
        "Job",
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


def test_an_hpa_only_in_the_operators_place(deployment, facts, oldest):
    scaling = {"min": 2, "max": 4, "targetUtilization": 0.35}
    assert not [
        c for c in plan(deployment(autoscaling=scaling), facts()).children if "Autoscaler" in c["kind"]
    ]
    by_hpa = deployment(autoscaling={**scaling, "by": "hpa"})
    made = plan(by_hpa, facts())
    hpa = child(made, "HorizontalPodAutoscaler", "mistral-server")
    assert hpa["apiVersion"] == "autoscaling/v2"
    target = child(made, "Deployment", hpa["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"]
    [metric] = hpa["spec"]["metrics"]
    assert child(made, "Service", metric["object"]["describedObject"]["name"])
    assert metric["object"]["target"]["averageValue"] == "350m"
    with pytest.raises(PlanRefused, match=r"^spec\.autoscaling\.by: hpa needs autoscaling/v2") as refused:
        plan(by_hpa, facts(capabilities=oldest))
    assert refused.value.reason == "UnsupportedByServer"


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
