"""`zero serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from recipes.errors import exit_codes, run_async


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_RECIPE", help="A model's folder, its hub id, or tiny; or a recipe.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. One that other machines reach needs ZERO_SERVER_TOKEN to be set."),
    ] = "127.0.0.1",
) -> None:
    """Serve a model for runs that name this server in rollout.server.urls; a recipe's, exactly as it needs it."""
    with exit_codes():
        from grpo.rollout.vllm.serve import serve as serve_model
        from recipes.schema.load import load_recipe, model_settings, names_recipe, resolve_model

        if not names_recipe(model):
            serve_model(resolve_model(model), port, host=host, run=run_async)
            return
        recipe = load_recipe(model)
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
        )
