"""Builders of the Kubernetes objects that a deployment owns. Pure: same arguments, same objects."""

from mii_operator.manifests.children import children

__all__ = ["children"]
