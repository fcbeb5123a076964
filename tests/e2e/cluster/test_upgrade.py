"""`helm upgrade` to other images: operator, gateways and servers are replaced, and no request fails."""

import pytest

from .conftest import IMAGES
from .kube import wait_for
from .release import TAG

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NEXT = f"{TAG}-next"


def test_an_upgrade_and_its_rollback(release, deployment, none_fails, need_images):
    need_images(*(image.replace(TAG, NEXT) for image in IMAGES))
    with none_fails("upgrade"):
        release.upgrade(NEXT)
        wait_for(lambda: tags(deployment) == {NEXT}, "every pod has the new image")
        deployment.wait()
    with none_fails("rollback"):
        release.rollback()
        wait_for(lambda: tags(deployment) == {TAG}, "every pod has the old image")
        deployment.wait()


def tags(deployment):
    """Of the images that pods run, the operator's included."""
    operators = deployment.get("pods", "-l", "app.kubernetes.io/name=mii-operator")["items"]
    pods = deployment.pods("server", "gateway") + operators
    images = [container["image"] for pod in pods for container in pod["spec"]["containers"]]
    return {image.rpartition(":")[2] for image in images}
