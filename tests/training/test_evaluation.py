import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from raygap.training.evaluation import macro_f1

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@given(pairs)
def test_macro_f1_is_that_of_scikit_learn(drawn: list[tuple[int, int]]) -> None:
    labels, guesses = np.array(drawn).T
    expected = f1_score(labels, guesses, average="macro", zero_division=0)
    assert np.isclose(macro_f1(labels, guesses), expected)
