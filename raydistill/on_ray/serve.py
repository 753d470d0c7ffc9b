"""The server of `raydistill serve`: Ray Serve's proxy before replicas that answer in batches.

Comes in: `ServeSettings`. Goes out: a `Server` that listens until it is closed. A request is read and checked by
itself, before it joins a batch; so one that is at fault is told so and reaches no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import threading
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray

from raydistill.deployment.answerer import open_answerer
from raydistill.deployment.http_requests import (
    BadRequest,
    answer_together,
    check_length,
    describe_answer,
    describe_model,
    read_question,
)
from raydistill.deployment.serve_settings import ServeSettings, choose_port
from raydistill.errors import ConfigError, describe_in_line
from raydistill.on_ray.session import finds_cluster, start_ray
from raydistill.storage.files import Array

with warnings.catch_warnings():  # of pydantic, about Ray's own schemas
    warnings.simplefilter("ignore")
    from ray import serve
    from ray.serve.context import _get_global_client  # the only way to the port of a Serve that runs already

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

APP = "raydistill"
READY_SECONDS = 120.0
ONGOING = 256  # requests in a replica at once; others wait in the proxy
WAITING = 4096  # requests that wait in the proxy; others are told 503
PATHS = {"/": "GET", "/healthz": "GET", "/predict": "POST"}
QUIET = {"log_level": "ERROR", "enable_access_log": False}


class Replica:
    """A process that answers."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._answerer = open_answerer(settings.location, settings.model)
        self._ask.set_max_batch_size(settings.batch)  # type: ignore[attr-defined]
        self._ask.set_batch_wait_timeout_s(settings.wait)  # type: ignore[attr-defined]

    async def __call__(self, request: Request) -> Response:
        """Answer one request, whatever it is."""
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(await self._route(request))
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, error.status)
        except Exception as error:  # whatever a network raises: the line is for whoever asked, the rest goes on
            return JSONResponse({"error": f"model: {describe_in_line(error)[:300]}"}, 500)

    async def _route(self, request: Request) -> dict[str, Any]:
        path = request.url.path.rstrip("/") or "/"
        if path not in PATHS:
            raise BadRequest(404, f"path: {path[:60]!r} is not known; give {', '.join(PATHS)}")
        if request.method not in (PATHS[path], "HEAD" if PATHS[path] == "GET" else ""):
            raise BadRequest(405, f"method: {request.method[:20]} is not allowed for {path}; give {PATHS[path]}")
        if path == "/healthz":
            return {"status": "ok", "model": self._answerer.model}
        if path == "/":
            return describe_model(self._answerer)
        return await self._predict(request)

    async def _predict(self, request: Request) -> dict[str, Any]:
        check_length(request.headers.get("content-length"), self._settings.most_bytes)
        kind, query, body = request.headers.get("content-type", ""), dict(request.query_params), await request.body()
        question = await asyncio.to_thread(read_question, kind, query, body, self._answerer)
        log_probs = await self._ask(question.x)
        if isinstance(log_probs, Exception):
            raise log_probs
        return await asyncio.to_thread(describe_answer, question, log_probs, self._answerer)

    @serve.batch
    async def _ask(self, batch: list[Array]) -> list[Array | Exception]:
        return await asyncio.to_thread(answer_together, self._answerer, batch)


class Server:
    """A running server. url: where it listens, without a slash at the end."""

    def __init__(self, settings: ServeSettings) -> None:
        """Start it, on a cluster or on a private Ray. Raises ConfigError where it cannot listen, or has no room."""
        self._settings = settings
        here = not finds_cluster(settings.address) or settings.port == 0
        port = choose_port(settings.host, settings.port) if here else settings.port
        cpus = max(os.cpu_count() or 1, int(-(-settings.replicas * settings.cpus // 1)))
        self._session = start_ray(settings.address, settings.verbose, cpus)
        self._began_serve = self._deployed = False
        try:
            self.url = self._start(port)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Until this process is interrupted."""
        threading.Event().wait()

    def close(self) -> None:
        """Stop answering: requests that are under way end first. A private Ray ends; a cluster is left as it was."""
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):  # Ray tells of its end
            if self._session.joined and ray.is_initialized():
                if self._deployed:  # another's is left as it is
                    with contextlib.suppress(Exception):
                        serve.delete(APP)
                if self._began_serve and self._session.owned:
                    with contextlib.suppress(Exception):
                        serve.shutdown()
            self._session.close()

    def _start(self, port: int) -> str:
        settings = self._settings
        self._quiet()
        running = _get_global_client(raise_if_no_controller_running=False)
        if running is None:
            self._began_serve = True
            serve.start(
                proxy_location="EveryNode" if self._session.joined and self._session.owned else "HeadOnly",
                http_options={"host": settings.host, "port": port},
                logging_config=QUIET,
            )
        elif APP in serve.status().applications:
            raise ConfigError(f"serve: this cluster serves {APP!r} already; end that first, or give another --address")
        self._quiet()
        application = serve.deployment(
            name=settings.model,
            num_replicas=settings.replicas,
            max_ongoing_requests=ONGOING,
            max_queued_requests=WAITING,
            ray_actor_options={"num_cpus": settings.cpus},
            graceful_shutdown_wait_loop_s=0.1,
            logging_config=QUIET,
        )(Replica).bind(settings)
        target = serve.RunTarget(application, name=APP, route_prefix="/", logging_config=QUIET)
        self._deployed = True
        serve.run_many([target], wait_for_applications_running=False)
        self._await_ready()
        options = _get_global_client().http_config  # type: ignore[union-attr]
        host = options.host if options.host not in ("0.0.0.0", "::", None) else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{options.port}"

    def _quiet(self) -> None:
        if not self._settings.verbose:
            logging.getLogger("ray.serve").setLevel(logging.CRITICAL)

    def _await_ready(self) -> None:
        """Raises ConfigError where the replicas do not start in time."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            status = serve.status().applications.get(APP)
            if status is not None and status.status == "RUNNING":
                return
            told = [status.message] if status is not None else []
            told += [deployment.message for deployment in status.deployments.values()] if status is not None else []
            reason = describe_in_line(RuntimeError(" ".join(told)))[-300:]
            if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ConfigError(f"serve: the replicas do not start ({reason})")
            if time.monotonic() > ends:
                raise ConfigError(
                    f"serve: {self._settings.replicas} replicas of {self._settings.cpus:g} CPUs did not start in"
                    f" {READY_SECONDS:.0f} s ({reason}); see that the cluster has room, or give fewer"
                )
            time.sleep(0.1)
