"""Error responses of the Hub's protocol: a status, a message, and a code in ``X-Error-Code`` for clients."""

from starlette.responses import JSONResponse


class Refused(Exception):
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


def no_repo() -> Refused:
    return Refused(404, "RepoNotFound", "Repository not found")


def no_revision() -> Refused:
    return Refused(404, "RevisionNotFound", "Revision not found")


def no_entry(commit: str) -> Refused:
    # The commit header tells the client that the revision exists and only the file does not.
    return Refused(404, "EntryNotFound", "Entry not found", commit)


def no_token() -> Refused:
    return Refused(401, "GatedRepo", "Access to this hub requires a token")


def wrong_token() -> Refused:
    return Refused(403, "GatedRepo", "The token is not valid for this hub")
