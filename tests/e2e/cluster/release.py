"""The chart's release `mii` in a namespace of the tests, serving that namespace alone."""

import os
from pathlib import Path
from typing import Any

import helm_python
import yaml

from .kube import kubectl

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/mii-operator"
TAG: str = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
CRD = "miideployments.mii.dev"
NAME = "mii"


class Release:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._values: dict[str, Any] = {"watchNamespaces": [namespace], "images": {"server": "mii-smollm2"}}

    def install(self, **values: Any) -> None:
        self._values |= values
        self._take_over_the_definition()
        with self._helm() as helm:
            helm.install(CHART, NAME, self._values, namespace=self.namespace)

    def upgrade(self, tag: str) -> None:
        """To other images, as `--reuse-values --set images.tag=TAG` does."""
        self._take_over_the_definition()
        with self._helm() as helm:
            helm.upgrade(CHART, NAME, {"images": {"tag": tag}}, namespace=self.namespace, reuse_values=True)

    def rollback(self) -> None:
        """To what the release was before the upgrade."""
        self._take_over_the_definition()
        with self._helm() as helm:
            helm.rollback(NAME)

    def test(self) -> None:
        with self._helm() as helm:
            helm.test(NAME, timeout=300)

    def uninstall(self) -> None:
        with self._helm() as helm:
            helm.uninstall(NAME, ignore_not_found=True)

    def cluster_objects(self) -> set[str]:
        """What it has outside its namespace, but for the definition."""
        label = "app.kubernetes.io/name=mii-operator"
        roles = kubectl("get", "clusterroles,clusterrolebindings", "-l", label, "-o", "name").splitlines()
        return {name for name in roles if f"/{self.namespace}-" in name}

    def _helm(self) -> helm_python.Config:
        return helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=self.namespace)

    def _take_over_the_definition(self) -> None:
        """From other releases in this cluster, which keep it in place when they go."""
        if kubectl("get", "crd", CRD, "--ignore-not-found"):
            kubectl("label", "crd", CRD, "--overwrite", "app.kubernetes.io/managed-by=Helm")
            owner = (
                f"meta.helm.sh/release-name={NAME}",
                f"meta.helm.sh/release-namespace={self.namespace}",
            )
            kubectl("annotate", "crd", CRD, "--overwrite", *owner)
