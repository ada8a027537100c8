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
) -> None:
    """Serve a model for runs that name this server in rollout.server.urls; a recipe's, with its settings."""
    with exit_codes():
        from grpo.rollout.vllm.serve import serve as serve_model
        from recipes.schema.load import load_recipe, model_settings, names_recipe, resolve_model

        if not names_recipe(model):
            serve_model(resolve_model(model), port, run=run_async)
            return
        recipe = load_recipe(model)
        settings = model_settings(recipe).model_copy(update={"lora": None})  # by url, weights go merged
        serve_model(settings.path, port, model=settings, rollout=recipe.rollout, run=run_async)
