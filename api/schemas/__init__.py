"""The public bodies, one module a subject: names, units and words of the API. They never know how they are filled."""
