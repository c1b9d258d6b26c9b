"""The River API Spec under `/api/`: another interface to the same models.

Its routes call the same writers as the native routes, with the same log, limits and keys. Every path ends in
a slash, and an error is ``{"message": "…"}`` (`service.http.responses`).
"""

from . import models, reports, samples, streams

ROUTES = [*samples.ROUTES, *models.ROUTES, *reports.ROUTES, *streams.ROUTES]
