"""The recipes: what can be trained, and how.

A recipe is a network and the way to train it. Each has a module of its own; the table is all that the commands know.
"""

from glyph_trainer.errors import TrainerError
from glyph_trainer.recipes import backprop, deck, flagship, logistic
from glyph_trainer.recipes.recipe import Example, Fitted, Recipe, as_built

RECIPES: dict[str, Recipe | Example] = {
    recipe.name: recipe
    for recipe in (backprop.RECIPE, logistic.RECIPE, deck.RECIPE, deck.FAST, deck.POLISH, flagship.RECIPE)
}

__all__ = ["RECIPES", "Example", "Fitted", "Recipe", "as_built", "find_recipe"]


def find_recipe(name: str) -> Recipe | Example:
    """Look up a recipe.

    Args:
        name: what it is called.

    Returns:
        the recipe.

    Raises:
        TrainerError: there is none of that name.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise TrainerError(f"there is no recipe {name!r}. Choose one of: {', '.join(RECIPES)}") from None
