"""`mii status [NAME]`, and as `kubectl mii status`: why a deployment of a cluster is ready or not.

kubectl ─JSON─> report (pure) ─> show
"""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from rich.console import Console

from mii.cluster import report, show
from mii.cluster.kubectl import RESOURCE, Kubectl, KubectlFailed, items, unread
from mii.cluster.report import Report, Summary
from mii.errors import MIIError

NOT_READY = 3  # the exit code
_PIPE_WIDTH = 200  # columns, where no terminal has any
_CHILDREN = "pods,replicasets.apps,deployments.apps,jobs.batch,persistentvolumeclaims"
_HPA = "horizontalpodautoscalers.autoscaling"
_DESCRIPTION = """\
Says in words why the MIIDeployments of a Kubernetes cluster are ready or not, and what to do. Asks kubectl.
Exit codes: 0 all that was asked for is ready, 3 some is not, 1 it could not be found out, 2 wrong usage."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "status",
        help="say why deployments on Kubernetes are ready or not",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="of the MIIDeployment to explain; without it a table of all")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", help="default: the context's")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="a table of every namespace")
    parser.add_argument("--context", help="of the kubeconfig; default: the current one")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 or 3. Raises MIIError."""
    if args.name and args.all_namespaces:
        raise MIIError("a NAME is of one namespace: give -n NAMESPACE instead of -A")
    kubectl = Kubectl(context=args.context, namespace=args.namespace, everywhere=args.all_namespaces)
    now = datetime.now(UTC)
    return _one(args, kubectl, now) if args.name else _all(args, kubectl, now)


def _all(args: argparse.Namespace, kubectl: Kubectl, now: datetime) -> int:
    rows = [report.summary(item, now) for item in items(kubectl.get(RESOURCE))]
    if args.output == "json":
        _print_json([asdict(row) for row in rows])
    elif rows:
        show.show_all(_console(), rows, namespaces=args.all_namespaces)
    else:
        where = "in any namespace" if args.all_namespaces else f"in namespace {_namespace(args, kubectl)}"
        print(f"no MIIDeployment is {where}; `kubectl apply -f` one of examples/", file=sys.stderr)
    return _exit_code(rows)


def _one(args: argparse.Namespace, kubectl: Kubectl, now: datetime) -> int:
    made = _report(args, kubectl, now)
    if args.output == "json":
        _print_json(asdict(made))
    else:
        show.show(_console(), made)
    return _exit_code([made.summary])


def _report(args: argparse.Namespace, kubectl: Kubectl, now: datetime) -> Report:
    """Without permission for some of what belongs to the deployment, of the rest."""
    resource = _resource(args, kubectl)
    labels = f"app.kubernetes.io/managed-by=mii-operator,app.kubernetes.io/instance={args.name}"
    by_hpa = (resource["spec"].get("autoscaling") or {}).get("by") == "hpa"
    kinds = f"{_CHILDREN},{_HPA}" if by_hpa else _CHILDREN
    children, complaint = kubectl.get_some(kinds, f"--selector={labels}")
    events, second = kubectl.get_some("events")
    command = f"kubectl --context {quote(args.context)}" if args.context else "kubectl"
    made = report.report(resource, items(children), items(events), now, kubectl=command)
    return replace(made, notes=[unread(words) for words in (complaint, second) if words])


def _resource(args: argparse.Namespace, kubectl: Kubectl) -> dict[str, Any]:
    try:
        return kubectl.get(RESOURCE, args.name)
    except KubectlFailed as error:
        if error.reason != "NotFound":
            raise
    names = [item["metadata"]["name"] for item in items(kubectl.get(RESOURCE))]
    near = difflib.get_close_matches(args.name, names, n=1)
    there = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names) or 'none'}"
    raise MIIError(f"no MIIDeployment {args.name} in namespace {_namespace(args, kubectl)}; {there}")


def _namespace(args: argparse.Namespace, kubectl: Kubectl) -> str:
    return args.namespace or kubectl.default_namespace()


def _exit_code(rows: Sequence[Summary]) -> int:
    return 0 if all(row.ready for row in rows) else NOT_READY


def _console() -> Console:
    """Without emoji: what stands between colons in messages is meant."""
    return Console(emoji=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))
