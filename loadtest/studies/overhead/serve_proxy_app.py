"""The textbook form of streaming with Ray Serve: an HTTP deployment in front of an engine's.

`build_app` is the import path of a Serve application: FastAPI in an ingress deployment behind
Serve's Python proxy, which calls an engine deployment through a streaming `DeploymentHandle`; the
engine's replica runs vLLM's `AsyncLLM` and yields the chunks of vLLM's chat completions.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import State


class AppArgs(BaseModel):
    """`engine_args`: words of the command line of `vllm serve`."""

    engine_args: list[str]
    max_ongoing_requests: int


class Engine:
    """vLLM's engine and its handler of chat completions, without an HTTP server."""

    async def __init__(self, engine_args: list[str]) -> None:
        # Seconds of import, that only the engine's replica pays.
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(engine_args)
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
        client = AsyncLLM.from_vllm_config(config)
        state = State()
        await init_app_state(client, state, arguments, await client.get_supported_tasks())
        self._serving_chat = state.openai_serving_chat

    async def chat(self, body: dict[str, Any]) -> AsyncIterator[str]:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest.model_validate(body)
        answer = await self._serving_chat.create_chat_completion(request)
        if not isinstance(answer, AsyncGenerator):
            yield f"data: {answer.model_dump_json()}\n\n"
            return
        async for event in answer:
            yield event


api = FastAPI()


class Ingress:
    def __init__(self, engine: DeploymentHandle) -> None:
        self._engine = engine.options(stream=True)

    @api.get("/health")
    async def health(self) -> Response:
        return Response()

    @api.post("/v1/chat/completions")
    async def chat(self, request: Request) -> StreamingResponse:
        events: Any = self._engine.chat.remote(await request.json())
        return StreamingResponse(events, media_type="text/event-stream")


def build_app(args: AppArgs) -> serve.Application:
    """The application; Serve's default of 5 requests at once for a replica would be the limit."""
    deployment = serve.deployment(max_ongoing_requests=args.max_ongoing_requests)
    engine = deployment(Engine).bind(args.engine_args)
    return deployment(serve.ingress(api)(Ingress)).bind(engine)
