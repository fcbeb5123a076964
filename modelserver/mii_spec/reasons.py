"""Every reason that a condition may have: what it means and what to do about it.

The one source of `mii status`, of docs/operations.md and of the operator, which can give no other reason.
"""

from typing import Literal, NamedTuple

Reason = Literal[
    # Ready
    "Ready",
    "ScaledToZero",
    # Accepted
    "Planned",
    "InvalidSpec",
    "InvalidParallelism",
    "ModelDoesNotFit",
    "ModelNotFound",
    "ModelAuthRequired",
    "ModelUnreachable",
    "NotOwned",
    "RefusedByServer",
    "UnsupportedByServer",
    "Deleting",
    # Scheduled
    "AllScheduled",
    "NoPods",
    "WaitingForGPU",
    "Unschedulable",
    # Available, Progressing
    "ReplicasReady",
    "NoReplicaReady",
    "Complete",
    "Creating",
    "Starting",
    "Rolling",
    "RollingWithoutSurge",
    "ImagePullFailed",
    "ContainerNotCreated",
    "CrashLooping",
    "StartupTimeout",
    "PodsRefused",
    # ModelCached
    "OnVolume",
    "Loaded",
    "Cached",
    "DownloadsAtStart",
    "Downloading",
    "DownloadWaiting",
    "DownloadStalled",
    "DownloadFailed",
    # GatewayReady
    "GatewayReady",
    "GatewayStarting",
]


class Meaning(NamedTuple):
    """`advice` is empty where there is nothing to do but wait, or nothing at all."""

    words: str
    advice: str = ""


MEANINGS: dict[Reason, Meaning] = {
    "Ready": Meaning("Every replica that is wanted takes requests."),
    "ScaledToZero": Meaning("No replica is wanted. With autoscaling the next request starts one."),
    "Planned": Meaning("The manifest is in order; the message says how the width was chosen."),
    "InvalidSpec": Meaning(
        "The manifest cannot be served; what ran before runs on.",
        "Correct the fields that the message names and apply it again.",
    ),
    "InvalidParallelism": Meaning(
        "The model cannot be split over that many GPUs.",
        "Set spec.gpus to a width that the message names, or to auto.",
    ),
    "ModelDoesNotFit": Meaning(
        "The weights and a minimum of KV cache exceed the GPUs' memory.",
        "Raise spec.gpus, lower spec.engine.maxModelLen, ask for larger GPUs with spec.accelerator.product, "
        "or take a smaller model.",
    ),
    "ModelNotFound": Meaning(
        "The hub has no such model or revision.",
        "Check spec.model and spec.revision; a private model needs spec.tokenSecretRef.",
    ),
    "ModelAuthRequired": Meaning(
        "The hub refuses the model without a token that may read it.",
        "Accept the model's terms on its page and name a Secret with that account's token in "
        "spec.tokenSecretRef.",
    ),
    "ModelUnreachable": Meaning(
        "The hub does not answer, and the width hangs on what it says.",
        "Let the operator reach the hub (a proxy, extraArgs: [--hub-endpoint=…]), or set spec.gpus. "
        "It is asked again by itself.",
    ),
    "NotOwned": Meaning(
        "An object of a name that is needed belongs to somebody else, and is left alone.",
        "Delete or rename that object, or give the deployment another name.",
    ),
    "RefusedByServer": Meaning(
        "The API server refuses an object that the manifest makes.",
        "Follow its words: mostly spec.podTemplate, an admission policy, a quota, or the operator's "
        "permissions.",
    ),
    "UnsupportedByServer": Meaning(
        "The manifest asks for what this cluster's API server does not offer.",
        "Change the field that the message names, or upgrade the cluster.",
    ),
    "Deleting": Meaning(
        "Objects of an earlier deployment of this name are still being deleted.",
        "Wait. If it lasts, look for pods and finalizers that hold them up.",
    ),
    "AllScheduled": Meaning("Every replica has a node."),
    "NoPods": Meaning("There is nothing to schedule yet."),
    "WaitingForGPU": Meaning(
        "No node has as many free GPUs as one replica needs.",
        "Free GPUs, add nodes, or lower spec.gpus or spec.replicas; if nodes are there but not counted, "
        "check the device plugin and spec.accelerator.",
    ),
    "Unschedulable": Meaning(
        "No node takes a pod, for another reason than GPUs.",
        "Compare the scheduler's words with the nodes: requests, taints, selectors and volumes come from "
        "spec.podTemplate and spec.cache.",
    ),
    "ReplicasReady": Meaning("At least one replica takes requests."),
    "NoReplicaReady": Meaning("No replica takes requests yet. They wait at the gateway."),
    "Complete": Meaning("Every replica is there, of the newest version."),
    "Creating": Meaning("The replicas are about to be created."),
    "Starting": Meaning("Replicas load the model; spec.rollout.startupTimeout limits how long."),
    "Rolling": Meaning("Replicas of the newest version replace the older ones."),
    "RollingWithoutSurge": Meaning(
        "Replicas are replaced one by one in place, as no GPUs are free for a spare one.",
        "Nothing, if less capacity for a while is fine; else free as many GPUs as one replica has.",
    ),
    "ImagePullFailed": Meaning(
        "A node cannot pull the image.",
        "Check images.registry and images.tag of the chart, that the nodes reach the registry, and that "
        "images.pullSecrets exist in the deployment's namespace.",
    ),
    "ContainerNotCreated": Meaning(
        "The kubelet cannot create the container.",
        "Check that every Secret, ConfigMap and claim that the message names exists in the namespace.",
    ),
    "CrashLooping": Meaning(
        "A server ends again and again.",
        "Read its last words. OOMKilled: raise the memory limit in spec.podTemplate; CUDA out of memory: "
        "lower spec.engine.kvMemoryFraction or maxModelLen; else correct the model or spec.engine.args.",
    ),
    "StartupTimeout": Meaning(
        "A server did not load its model within spec.rollout.startupTimeout, and is restarted.",
        "Raise startupTimeout, or set spec.cache.size so that the download does not count.",
    ),
    "PodsRefused": Meaning(
        "The API server refuses to create pods.",
        "Follow its words: a quota, an admission policy, or a Pod Security level of the namespace.",
    ),
    "OnVolume": Meaning("The model is read where it lies."),
    "Loaded": Meaning("Replicas have downloaded the model, each for itself."),
    "Cached": Meaning("The model is on the cache's volume."),
    "DownloadsAtStart": Meaning("Each replica downloads the model when it starts."),
    "Downloading": Meaning("The model is on its way to the cache; servers start when it is there."),
    "DownloadWaiting": Meaning(
        "The download has not begun, or waits to try again.",
        "Follow the message: the claim may not be bound, the image not pulled, or the hub out of reach.",
    ),
    "DownloadStalled": Meaning(
        "No byte has come for two minutes.",
        "Check the way from the nodes to the hub; the download goes on by itself where it was.",
    ),
    "DownloadFailed": Meaning(
        "The download has been given up.",
        "Remove the cause that the message names, then delete the Job NAME-fetch-…: it is made anew.",
    ),
    "GatewayReady": Meaning("A gateway takes requests."),
    "GatewayStarting": Meaning("It takes seconds, unless its pod is in trouble."),
}
