"""GET /v1/models and /v1/models/{model}."""

from aiohttp import web

from mii.server.openai.replies import Model, ModelList
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service


async def list_models(request: web.Request) -> web.Response:
    return json_response(ModelList([_model(request.app[SERVICE])]))


async def get_model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    service.check_model(request.match_info["model"])
    return json_response(_model(service))


def _model(service: Service) -> Model:
    info = service.backend().info
    return Model(service.model_name, service.created, info.model, info.max_model_len)


ROUTES = [
    Route(
        method="GET",
        path="/v1/models",
        handler=list_models,
        summary="The model served here (OpenAI)",
        reply=ModelList,
    ),
    Route(
        method="GET",
        path="/v1/models/{model:.+}",
        handler=get_model,
        summary="One model (OpenAI)",
        reply=Model,
    ),
]
