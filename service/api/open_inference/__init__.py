"""The Open Inference Protocol, version 2, under `/v2`: predictions for the clients of KServe and Triton.

Its routes predict as `POST /predict` does, with the same keys and limits. `service.http.responses` writes
their errors. `tensors` converts tensors to samples, and predictions to tensors.
"""

from . import routes

ROUTES = routes.ROUTES
