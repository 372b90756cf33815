"""Which selections of tests see the GPUs of the machine."""

from _pytest.mark.expression import Expression


def sees_gpus(expression):
    """Return whether a marker expression selects only tests that need GPUs.

    Those are `gpu` and `cluster`: the tests of clusters start raylets with made-up GPUs, which Ray refuses
    where none is visible. All other tests compare with results of the CPU.
    """
    if not expression:
        return False
    evaluate = Expression.compile(expression).evaluate

    def selects(*marks):
        return any(evaluate(lambda name, mark=mark, **_: name == mark) for mark in marks)

    return selects("gpu", "cluster") and not selects("", "slow", "weights")
