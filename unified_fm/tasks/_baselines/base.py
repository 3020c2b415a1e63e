"""What a trivial baseline is: a method without a network that a model has to beat.

    def baseline(train, test) -> predictions

of lists of examples as sources give them, from the examples of training alone: labels and answers
of test examples are never read. A prediction is what the task's scorer takes (`tasks/_scoring`): a
label, a score, an answer, "True" or "False", a box. All are computed where they are shown, on the
same examples as the model's, with the same number of labels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Example = Mapping[str, Any]
Baseline = Callable[[Sequence[Example], Sequence[Example]], list[Any]]
ITERATIONS = 1000  # of logistic regressions, at most


class NotInstalled(RuntimeError):
    """Scikit-learn is not there, without which this baseline cannot be computed."""


def logistic(x: Any, labels: Sequence[Any], asked: Any, *, c: float = 1.0) -> list[Any]:
    """Labels that scikit-learn's logistic regression gives to `asked`, learnt from `x`.

    One class in training is given to all.

    Args:
        x: features of training, f[N D], dense or sparse.
        labels: [N].
        asked: features f[M D].
        c: inverse strength of the L2 penalty, scikit-learn's default unless given.

    Raises:
        NotInstalled: without scikit-learn.
    """
    if len(set(labels)) == 1:
        return [labels[0]] * asked.shape[0]
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise not_installed() from error
    model = LogisticRegression(C=c, max_iter=ITERATIONS).fit(x, list(labels))
    return model.predict(asked).tolist()


def not_installed() -> NotInstalled:
    """The error, with what to do."""
    return NotInstalled("needs scikit-learn, which is not installed: pip install unified_fm[eval]")
