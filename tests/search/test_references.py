import pytest
from stores import SMALL

from raygap.data.store import Store
from raygap.methods import find_method
from raygap.schema import from_mapping
from raygap.search.references import reference_configs
from raygap.training.trunk import warmup_key

FIELDS = SMALL | {"optimizer.lr": 0.01, "warmup.epochs": 2, "purify.epochs": 1, "loss.unimodal_weight": 0.5}


def test_references_differ_from_the_chosen_configuration_in_what_they_are_for_alone(small_store: Store) -> None:
    chosen = from_mapping(FIELDS | {"method": "gmm_scores", "epochs": 6, "seed": 3})
    found = reference_configs(chosen)
    assert list(found) == ["shuffled", "unimodal_losses", "joint"]
    assert found["shuffled"] == from_mapping(
        FIELDS | {"method": "gmm_scores", "epochs": 6, "seed": 3, "mixture.posterior": "shuffled"}
    )
    for name in ("unimodal_losses", "joint"):
        assert found[name].optimizer == chosen.optimizer
        assert (found[name].model, found[name].prepare, found[name].epochs) == (chosen.model, chosen.prepare, 6)
        assert found[name].purify.epochs == 0
    assert found["unimodal_losses"].loss.unimodal_weight == 0.5
    keys = {
        name: warmup_key(config, small_store.header["key"], find_method(config.method))
        for name, config in {"chosen": chosen, **found}.items()
    }
    assert keys["chosen"] == keys["shuffled"] == keys["unimodal_losses"]


@pytest.mark.parametrize(
    ("method", "others", "expected"),
    [
        ("unimodal_losses", {"purify.epochs": 0}, ["joint"]),
        ("unimodal_losses", {}, ["shuffled", "joint"]),  # purification reads posteriors
        ("joint", {"purify.epochs": 0}, ["unimodal_losses"]),
        ("gmm_scores", {"mixture.posterior": "constant"}, ["unimodal_losses", "joint"]),
        ("ogm_ge", {"purify.epochs": 0}, ["unimodal_losses", "joint"]),
    ],
)
def test_no_method_is_a_reference_of_itself(method: str, others: dict, expected: list[str]) -> None:
    known = {path: value for path, value in FIELDS.items() if not path.startswith("loss.")}
    assert list(reference_configs(from_mapping(known | others | {"method": method, "epochs": 6}))) == expected


def test_a_plain_winner_is_compared_with_the_guided_one_that_it_beat_and_that_with_its_control() -> None:
    fields = {"method": "gmm_scores", "loss.focus": 7.0}
    guided, control = from_mapping(fields), from_mapping(fields | {"mixture.posterior": "shuffled"})
    plain = from_mapping({"method": "unimodal_losses"})
    joint = reference_configs(plain)["joint"]
    assert reference_configs(plain, guided) == {"gmm_scores": guided, "gmm_scores-shuffled": control, "joint": joint}
    without = from_mapping(fields | {"mixture.posterior": "constant"})
    assert list(reference_configs(plain, without)) == ["gmm_scores", "joint"]
