"""What is timed and weighed: the metrics of `cff-eval`, its counts, and scikit-learn."""

from collections.abc import Callable

from cff_bench.evaluate_cost.synthetic import Problem
from cff_runtime.errors import UsageError

EVALUATE = "evaluate"
EVIDENCE = "collect_evidence"
SKLEARN = "scikit-learn"
WHAT = {
    EVALUATE: "all eight metrics of cff-eval",
    EVIDENCE: "the counts that its intervals are resampled from",
    SKLEARN: "pixel AUROC and AP alone",
}


def load_subject(name: str) -> Callable[[Problem], object]:
    """Return a function that computes something of labels, scores, masks and maps.

    Raises
    ------
    UsageError
        If there is no such subject.
    """
    if name not in WHAT:
        raise UsageError(f"`--subjects` must be of {', '.join(WHAT)}, got {name!r}")
    if name == SKLEARN:
        from sklearn.metrics import average_precision_score, roc_auc_score

        def with_sklearn(problem: Problem) -> object:
            truth, values = problem[2].ravel(), problem[3].ravel()
            return roc_auc_score(truth, values), average_precision_score(truth, values)

        return with_sklearn
    from cff_edge.metrics import collect_evidence, evaluate

    if name == EVALUATE:
        return lambda problem: evaluate(*problem)

    def counts(problem: Problem) -> object:
        names = [str(index) for index in range(len(problem[0]))]
        return collect_evidence("product", 0, names, *problem)

    return counts
