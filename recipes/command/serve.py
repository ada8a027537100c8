"""`zero serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from recipes.command.complete import recipe_names
from recipes.command.loading import loading
from recipes.errors import exit_codes, run_async
from recipes.hub import give_up_unless_reachable

if TYPE_CHECKING:
    from grpo.config import ServerSettings


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RECIPE",
            help="A model's folder, its hub id, or tiny; or a recipe.",
            autocompletion=recipe_names,
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. One that other machines reach needs ZERO_SERVER_TOKEN to be set."),
    ] = "127.0.0.1",
    context: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens of prompt and completion; 0: all that the model takes. Default: that, or what a recipe needs.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the server, such as rollout.server.gpu_memory_utilization=0.5; of a recipe: any key.",
        ),
    ] = None,
) -> None:
    """Serve a model for runs that name this server in rollout.server.urls; a recipe's, exactly as it needs it."""
    with exit_codes():
        from recipes.schema.load import load_recipe, model_settings, names_recipe, resolve_model

        named = names_recipe(model)
        recipe = load_recipe(model, overrides or []) if named else None
        server = _server_settings(overrides) if overrides and not named else None
        if said := give_up_unless_reachable([recipe.model.path if recipe else model]):
            typer.echo(said, err=True)
        with loading("grpo.rollout.vllm.serve"):
            from grpo.rollout.vllm.serve import serve as serve_model
        more: dict[str, Any] = {"server": server} if server else {}
        more |= {} if context is None else {"context": context}
        if recipe is None:
            serve_model(resolve_model(model), port, host=host, run=run_async, **more)
            return
        settings = model_settings(recipe)
        if recipe.model.lora and recipe.model.lora.sync != "adapter":  # auto: to a url, weights go merged
            settings = settings.model_copy(update={"lora": None})
        serve_model(
            settings.path,
            port,
            model=settings,
            rollout=recipe.rollout,
            host=host,
            trainer_gpus=recipe.train.gpus,
            run=run_async,
            **more,
        )


def _server_settings(overrides: list[str]) -> ServerSettings:
    """Of --set rollout.server.KEY=VALUE alone, defaults beside them. Raises RecipeError for any other key."""
    from recipes.schema.load import RecipeError, load_recipe

    for override in overrides:
        if not override.startswith("rollout.server."):
            raise RecipeError(f"--set {override}: of a model, only rollout.server.KEY=VALUE can be set; give a recipe")
    return load_recipe("tiny_arithmetic_cpu", overrides).rollout.server  # which says nothing of its server
