"""Parameters with several names."""

from torch import nn

from recipes.sharding.shared_weights import share, shared_names, unshare


def tied() -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False, device="meta") for _ in range(3)))
    model[1].weight = model[2].weight = model[0].weight
    return model


def test_a_further_name_stands_for_the_first_one() -> None:
    assert shared_names(tied()) == {"1.weight": "0.weight", "2.weight": "0.weight"}


def test_names_that_are_not_kept_get_parameters_of_their_own() -> None:
    model = tied()

    unshare(model, {"2.weight": "0.weight"})

    assert shared_names(model) == {"2.weight": "0.weight"}
    assert model[1].weight.is_meta
    assert model[1].weight.requires_grad


def test_what_was_shared_is_shared_again() -> None:
    model = tied()
    names = shared_names(model)
    unshare(model, {})

    share(model, names)

    assert shared_names(model) == names
