"""`wanworks`: the supervisor of the processes, and a client of the HTTP API. It imports none of the parts it starts."""
