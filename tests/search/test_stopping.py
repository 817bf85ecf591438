import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygap.errors import UserError
from raygap.search.stopping import StoppingRule, Warmup, make_rule

EPOCHS = 20
RULES = ["asha", "median", "after:7"]
Trials = list[tuple[Warmup, list[float]]]
trials = st.lists(
    st.tuples(
        st.builds(Warmup, st.integers(0, 8), st.sampled_from(["slow", "fast"])),
        st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=EPOCHS, max_size=EPOCHS),
    ),
    min_size=2,
    max_size=6,
)


def shared(drawn: Trials) -> Trials:
    """Those of one warm-up have its values."""
    names = {warmup.name: values for warmup, values in reversed(drawn)}
    return [(warmup, names[warmup.name][: warmup.epochs] + values[warmup.epochs :]) for warmup, values in drawn]


def run(rule: StoppingRule, told: Trials, order: list[int], reached: dict[int, int] | None = None) -> dict[int, int]:
    """The epoch that each trial reached; `order` says whose turn it is."""
    reached = defaultdict(int, reached or {})
    stopped = set()
    for number in order:
        warmup, values = told[number]
        if number in stopped or reached[number] == EPOCHS:
            continue
        reached[number] += 1
        if not rule.goes_on(number, warmup, reached[number], values[reached[number] - 1]):
            stopped.add(number)
    return dict(reached)


def in_turn(drawn: Trials) -> list[int]:
    return [number for number in range(len(drawn)) for _ in range(EPOCHS)]


def test_rungs_begin_soon_after_the_own_warmup_and_grow() -> None:
    for name in RULES:
        for warmup in range(EPOCHS + 1):
            rungs = list(make_rule(name, EPOCHS).rungs(Warmup(warmup, "a")))
            assert all(warmup < rung < EPOCHS for rung in rungs)
            assert rungs == sorted(set(rungs))
    assert list(StoppingRule(100, 5, 1.5, 0.5).rungs(Warmup(0, "a"))) == [5, 8, 12, 18, 27, 41, 62, 93]
    assert list(StoppingRule(100, 5, 1.5, 0.5).rungs(Warmup(40, "a"))) == [41, 42, 43, 45, 48, 52, 58, 67, 81]
    assert list(make_rule("median", 10).rungs(Warmup(6, "a"))) == [7, 8, 9]
    assert not list(make_rule("none", 10).rungs(Warmup(0, "a")))


@settings(deadline=None, max_examples=50)
@given(trials, st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_what_leads_at_every_epoch_is_never_stopped_and_somebody_ends(
    drawn: Trials, name: str, chance: random.Random
) -> None:
    drawn[0] = (drawn[0][0], [0.5] * EPOCHS)
    order = in_turn(drawn)
    chance.shuffle(order)
    order += in_turn(drawn)
    reached = run(make_rule(name, EPOCHS), drawn, order)
    assert reached[0] == EPOCHS


@settings(deadline=None, max_examples=50)
@given(trials, st.sampled_from(RULES))
def test_nobody_is_judged_in_the_warmup_and_a_shared_one_counts_once(drawn: Trials, name: str) -> None:
    drawn = shared(drawn)
    rule = make_rule(name, EPOCHS)
    reached = run(rule, drawn, in_turn(drawn))
    assert all(reached[number] > warmup.epochs for number, (warmup, _) in enumerate(drawn))
    # More trials of the same warm-ups, which do not get beyond them, change nothing for others.
    busy = make_rule(name, EPOCHS)
    for number, (warmup, values) in enumerate(shared(drawn + drawn)[len(drawn) :], len(drawn)):
        for epoch in range(1, warmup.epochs + 1):
            assert busy.goes_on(number, warmup, epoch, values[epoch - 1])
    alone = make_rule(name, EPOCHS)
    for warmup, values in drawn:
        alone.remember(99, warmup, dict(enumerate(values[: warmup.epochs], 1)))
    assert run(busy, drawn, in_turn(drawn)) == run(alone, drawn, in_turn(drawn))


@settings(deadline=None, max_examples=50)
@given(trials, st.sampled_from(RULES), st.integers(0, 120), st.randoms(use_true_random=False))
def test_a_resumed_search_is_as_strict_as_one_that_was_not_interrupted(
    drawn: Trials, name: str, cut: int, chance: random.Random
) -> None:
    drawn = shared(drawn)
    order = in_turn(drawn)
    chance.shuffle(order)
    whole = run(make_rule(name, EPOCHS), drawn, order)
    before = run(make_rule(name, EPOCHS), drawn, order[:cut])
    again = make_rule(name, EPOCHS)
    for number, epoch in before.items():
        again.remember(number, drawn[number][0], dict(enumerate(drawn[number][1][:epoch], 1)))
        if epoch == whole[number] < EPOCHS:  # stopped by then
            order = [other for turn, other in enumerate(order) if other != number or turn < cut]
    for number, epoch in before.items():  # what was running tells its epochs again
        for earlier in range(1, epoch + 1):
            assert again.goes_on(number, drawn[number][0], earlier, drawn[number][1][earlier - 1])
    assert {**before, **run(again, drawn, order[cut:], before)} == whole


def test_values_are_compared_at_the_same_epoch_with_those_that_came_as_far() -> None:
    rule, short, long = StoppingRule(EPOCHS, 1, 2.0, 0.5), Warmup(1, "a"), Warmup(3, "b")
    rule.remember(0, short, {1: 0.3, 2: 0.4, 3: 0.5, 4: 0.6, 5: 0.7})
    assert rule.goes_on(1, long, 2, 0.1)  # warming up
    assert rule.goes_on(1, long, 4, 0.6)  # where its first adaptive epoch lies: the other had 0.6 there
    assert not replace(rule, values={4: {0: 0.6}}).goes_on(1, long, 4, 0.5)
    assert rule.goes_on(2, short, 2, 0.4)
    assert not rule.goes_on(3, short, 2, 0.3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hyperband", "--stopper hyperband: unknown; choose from asha, median, none, after:N"),
        ("after:N", "unknown"),
        ("after:-1", "unknown"),
        ("after:0", "--stopper after:0: trials have 20 epochs, so give a number from 1 to 19, or none"),
        ("after:20", "from 1 to 19"),
    ],
)
def test_unknown_rules_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_rule(name, EPOCHS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_where_the_network_starts_anew_its_own_epochs_are_judged() -> None:
    rule = StoppingRule(EPOCHS, 3, 2.0, 0.5)
    short, long = Warmup(5, "a", starts_anew=True), Warmup(10, "b", starts_anew=True)
    assert list(rule.rungs(short)) == [8, 11, 17]
    assert list(rule.rungs(long)) == [13, 16]
    for epoch in range(1, 11):  # the teachers have learnt more than the network ever will: nobody is held to that
        assert rule.goes_on(0, long, epoch, 0.9)
    reached = dict.fromkeys(range(4), 0)
    for number, level in enumerate((0.2, 0.3, 0.1, 0.25)):
        warmup = (short, long)[number % 2]
        for epoch in range(1, 14):
            value = 0.9 if epoch <= warmup.epochs else level
            if not rule.goes_on(number + 1, warmup, epoch, value):
                break
            reached[number] = epoch
    assert reached == {0: 13, 1: 13, 2: 7, 3: 13}
