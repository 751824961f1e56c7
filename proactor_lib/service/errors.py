"""What goes wrong, in OpenAI's form: a status, and a body that its clients read."""

from dataclasses import dataclass

KINDS = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error", 503: "server_error"}


@dataclass
class ApiError(Exception):
    """An answer that is an error. `code`: one of OpenAI's where it has one; `param`: the key that is wrong."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> dict:
        """OpenAI's error object."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
