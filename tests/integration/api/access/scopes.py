"""Scopes by short names, and a request for a video."""

from shared.states import Scope

ALL, READ, SUBMIT, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.ADMIN
VIDEO = {"model": "T2V-A14B", "prompt": "a cat", "size": "64x64"}
