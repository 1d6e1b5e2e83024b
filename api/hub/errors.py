"""Error responses of the Hub's protocol: a status, a message, and a code in ``X-Error-Code`` for clients."""

from starlette.responses import JSONResponse


class HubError(Exception):
    """An error response."""

    def __init__(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit

    def response(self) -> JSONResponse:
        headers = {"X-Error-Code": self.code, "X-Error-Message": str(self)}
        if self.commit is not None:
            headers["X-Repo-Commit"] = self.commit
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": str(self)}, self.status, headers)


def no_repo() -> HubError:
    return HubError(404, "RepoNotFound", "Repository not found")


def no_revision() -> HubError:
    return HubError(404, "RevisionNotFound", "Revision not found")


def no_entry(commit: str) -> HubError:
    # The commit header tells the client that the revision exists and only the file does not.
    return HubError(404, "EntryNotFound", "Entry not found", commit)


def no_token() -> HubError:
    return HubError(401, "GatedRepo", "Access to this hub requires a token")


def wrong_token() -> HubError:
    return HubError(403, "GatedRepo", "The token is not valid for this hub")
