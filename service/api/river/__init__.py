"""The River API Spec under `/api/`: its words for what the native routes do, over the same models.

No second way to learn: each of these routes asks the same writers, so the log, the limits and the keys are
the same. Every path ends in a slash, and an error is ``{"message": "…"}`` (`service.http.responses`).
"""

from . import models, reports, samples, streams

ROUTES = [*samples.ROUTES, *models.ROUTES, *reports.ROUTES, *streams.ROUTES]
