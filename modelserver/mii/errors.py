"""Errors meant for users. Each message says what was wrong, where, and what would be right."""


class MIIError(Exception):
    """Base of every error this package raises on purpose."""


class UnknownArgument(MIIError):  # noqa: N818 - the name is DeepSpeed-MII's
    """An option that does not exist; the message names it."""


class DeploymentNotFoundError(MIIError):
    """No local deployment of that name is recorded on this machine."""


class DeploymentFailed(MIIError):  # noqa: N818 - reads as what it is at the raise
    """A local deployment that cannot start; the message ends with the failed process's last words."""


class ServerUnavailable(MIIError):  # noqa: N818 - reads as what it is at the raise
    """Nothing answers at the address, or what answers cannot serve now; the message names the address."""


class InvalidRequest(MIIError):  # noqa: N818 - reads as what it is at the raise
    """A request that can never run. `param` names the offending field (OpenAI's `error.param`)."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ModelLoadError(MIIError):
    """A checkpoint that cannot be loaded; the message names the file and, if known, the tensor."""


class UnsupportedModel(ModelLoadError):  # noqa: N818
    """The architecture, or one of its options, is not served by this engine."""


class EngineDead(MIIError):  # noqa: N818
    """The engine process ended or stalled; the message carries its last words."""
