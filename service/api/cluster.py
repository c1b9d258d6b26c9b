"""Routes of a cluster: its description, and the health checks of proxies."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from .. import schemas
from ..auth.scopes import needs
from ..errors import Layer, NotOwnerError, TooStaleError
from ..http.responses import json_response
from ..models.cluster import cluster_of
from .openapi import ApiRoute

router = APIRouter(tags=["operations"], route_class=ApiRoute)


@router.get("/cluster", summary="Describe the cluster", response_model=schemas.ClusterDescription)
@needs("read", Layer.STORAGE, whole_server=True)
async def get_cluster(request: Request) -> Response:
    """Return the nodes and the shards of the cluster, with the owner of each shard.

    A server without `BNP_STORE` returns itself as the only node, and no shards.
    """
    return json_response(await cluster_of(request.scope).description())


@router.get("/health/owner/{shard}", summary="Ownership of a shard", response_model=schemas.Health)
@needs(None, Layer.OWNER)
async def owner(request: Request, shard: Annotated[int, Path(ge=0)]) -> Response:
    """Check that this process owns a shard: for a proxy that sends requests to the owner of a model.

    A server without a cluster owns every shard.
    """
    if not cluster_of(request.scope).owns(shard):
        raise NotOwnerError(f"this process does not own shard {shard}")
    return json_response({"status": "owner"})


@router.get("/health/replica", summary="Staleness", response_model=schemas.Health)
@needs(None, Layer.STALENESS)
async def replica(request: Request) -> Response:
    """Check that this process may answer predictions: it lags by at most `BNP_MAX_STALENESS`."""
    if cluster_of(request.scope).stale():
        raise TooStaleError("the replica lags by more than BNP_MAX_STALENESS: use another node")
    return json_response({"status": "replica"})


ROUTES = router.routes
