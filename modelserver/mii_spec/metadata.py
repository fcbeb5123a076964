"""The part of an object's metadata that the plan needs."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict

from mii_spec.fields import Strict
from mii_spec.names import check_deployment_name


class Metadata(Strict):
    """Kubernetes' ObjectMeta has more fields; they are of no concern here and let pass."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, AfterValidator(check_deployment_name)]
    namespace: str = "default"
    uid: str = ""  # empty until the API server has stored the object
    generation: int = 0
