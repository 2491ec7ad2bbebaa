"""How well a model predicts documents: losses of whole corpora, and of single continuations."""

from packformer.evaluation.continuations import Continuation, Likelihood, log_likelihoods
from packformer.evaluation.documents import check_documents, evaluate
from packformer.evaluation.score import Evaluation, Score, Span

__all__ = [
    "Continuation",
    "Evaluation",
    "Likelihood",
    "Score",
    "Span",
    "check_documents",
    "evaluate",
    "log_likelihoods",
]
