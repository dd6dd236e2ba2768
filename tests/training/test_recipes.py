import pytest

from training.errors import RecipeError
from training.recipes import RECIPE_NAMES, get_recipe, with_settings


def test_the_paper_recipe_is_the_published_configuration() -> None:
    """Every published value, by number."""
    recipe = get_recipe("paper")
    assert (recipe.embedding_dim, recipe.num_layers, recipe.num_rows, recipe.batch_norm) == (128, 4, 4, True)
    assert (recipe.dropout, recipe.batch_size, recipe.history_length, recipe.epochs) == (0.1, 8192, 64, 100)
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.learning_rate_factor) == (2e-3, 1e-6, 0.5)
    assert (recipe.l2, recipe.max_grad_norm, recipe.patience, recipe.min_improvement) == (2e-4, 10, 8, 1e-6)
    assert recipe.seed == 20242025


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_every_recipe_goes_by_its_name(name: str) -> None:
    """A recipe knows what it is called."""
    assert get_recipe(name).name == name


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    """The error lists the recipes."""
    with pytest.raises(RecipeError, match="'papr'; the recipes are paper, microlens_50k, impressions, tiny"):
        get_recipe("papr")


def test_settings_change_what_they_name_and_nothing_else() -> None:
    """Numbers, switches and words are read from key=value; the last of two counts."""
    before = get_recipe("paper")
    after = with_settings(before, ["l2=1e-6", "batch_norm=false", "epochs=3", "device=cpu", "epochs = 4"])
    assert (after.l2, after.batch_norm, after.epochs, after.device) == (1e-6, False, 4, "cpu")
    assert after.model_dump(exclude={"l2", "batch_norm", "epochs", "device"}) == before.model_dump(
        exclude={"l2", "batch_norm", "epochs", "device"}
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "'epochs' is not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("epoch=3", "no setting 'epoch'; the settings are averaging, batch_norm,"),
        ("name=other", "no setting 'name'"),
        ("epochs=three", "epochs=three: Input should be a valid integer"),
        ("epochs=-1", "epochs=-1: Input should be greater than or equal to 0"),
        ("dropout=1", "dropout=1: Input should be less than 1"),
        ("learning_rate=nan", "learning_rate=nan: Input should be"),
        ("device=tpu", "device=tpu: Input should be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_a_setting_that_cannot_be_taken_says_why(setting: str, message: str) -> None:
    """Form, key and value each have their own complaint."""
    with pytest.raises(RecipeError, match=message):
        with_settings(get_recipe("tiny"), [setting])


def test_impressions_are_never_exchanged() -> None:
    """But for its name, that is all that sets the recipe apart from the one for sampled negatives."""
    ours, sampled = get_recipe("impressions").model_dump(), get_recipe("microlens_50k").model_dump()
    assert {key: (ours[key], sampled[key]) for key in ours if ours[key] != sampled[key]} == {
        "name": ("impressions", "microlens_50k"),
        "exchange_negatives": (False, True),
    }
