from training.plateau import Plateau
from training.recipes import Recipe

RECIPE = Recipe(name="any", learning_rate=1e-3, min_learning_rate=3e-4, patience=3, epochs=10)


def follow(*areas: float) -> list[Plateau]:
    """Return the states after evaluations with these AUCs."""
    states = [Plateau(learning_rate=RECIPE.learning_rate)]
    for number, area in enumerate(areas):
        states.append(states[-1].after(area, 0.1 * number, RECIPE))
    return states[1:]


def test_a_new_best_keeps_the_learning_rate_and_is_remembered() -> None:
    """AUC, log loss and epoch of the best evaluation are kept."""
    last = follow(0.6, 0.7)[-1]
    assert (last.learning_rate, last.best_auc, last.best_log_loss, last.best_epoch) == (1e-3, 0.7, 0.1, 2)
    assert last.improved


def test_every_evaluation_that_is_no_better_halves_the_learning_rate_down_to_the_least() -> None:
    """Not once a plateau but each time, and not below the minimum."""
    states = follow(0.7, 0.6, 0.6, 0.6)
    assert [state.learning_rate for state in states] == [1e-3, 5e-4, 3e-4, 3e-4]
    assert [state.improved for state in states] == [True, False, False, False]


def test_an_improvement_below_the_least_counts_as_none() -> None:
    """The best AUC must be beaten by 1e-6."""
    assert not follow(0.7, 0.7 + 5e-7)[-1].improved
    assert follow(0.7, 0.7 + 2e-6)[-1].improved
    assert follow(0.7, 0.7 + 5e-7)[-1].best_auc == 0.7


def test_a_learning_rate_once_halved_stays_halved() -> None:
    """A later best does not raise it again."""
    assert follow(0.7, 0.6, 0.8)[-1].learning_rate == 5e-4


def test_a_run_is_over_after_its_patience_or_its_epochs() -> None:
    """Stale evaluations count in a row: a better one between them starts the count anew."""
    assert [state.is_over(RECIPE) for state in follow(0.7, 0.6, 0.6, 0.6)] == [False, False, False, True]
    assert not follow(0.7, 0.6, 0.6, 0.8, 0.6, 0.6)[-1].is_over(RECIPE)
    assert follow(*(0.5 + 0.01 * epoch for epoch in range(10)))[-1].is_over(RECIPE)


def test_the_learning_rate_is_halved_after_an_epoch_of_the_recipe_s_choice() -> None:
    """Once, whether that epoch was the best or not, and down to the least learning rate."""
    recipe = RECIPE.model_copy(update={"halve_after": 2, "learning_rate_factor": 1.0})
    for areas in ((0.6, 0.7, 0.8, 0.9), (0.6, 0.5, 0.4, 0.3)):
        state, rates = Plateau(learning_rate=1e-3), []
        for area in areas:
            state = state.after(area, 0.1, recipe)
            rates.append(state.learning_rate)
        assert rates == [1e-3, 5e-4, 5e-4, 5e-4]
    assert Plateau(learning_rate=4e-4, epoch=1).after(0.6, 0.1, recipe).learning_rate == 3e-4


def test_a_stale_epoch_that_is_the_chosen_one_slows_by_both_rules() -> None:
    """A quarter is left."""
    recipe = RECIPE.model_copy(update={"halve_after": 2, "min_learning_rate": 0.0})
    state = Plateau(learning_rate=1e-3).after(0.6, 0.1, recipe).after(0.5, 0.1, recipe)
    assert state.learning_rate == 2.5e-4


def test_a_learning_rate_below_the_least_is_not_raised() -> None:
    """It was asked for."""
    best = Plateau(learning_rate=1e-5).after(0.6, 0.1, RECIPE)
    assert best.learning_rate == best.after(0.5, 0.1, RECIPE).learning_rate == 1e-5
