"""Metrics are sums over counts."""

import math

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX
from packformer.training.metrics import AnswerAccuracy, CorpusLoss, TokenLoss


def test_loss_is_the_mean_over_all_tokens_not_the_mean_of_means():
    torch.manual_seed(0)
    batches = [(torch.randn(n, 7, dtype=torch.float64), torch.randint(7, (n,))) for n in (1, 40, 9)]
    metric = TokenLoss()
    for logits, targets in batches:
        metric.update(F.cross_entropy(logits, targets, reduction="sum"), len(targets))
    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = F.cross_entropy(logits, targets).item()
    mean_of_means = sum(F.cross_entropy(*batch).item() for batch in batches) / 3
    result = metric.compute()
    assert result["loss"] == pytest.approx(expected, rel=1e-12)
    assert result["perplexity"] == pytest.approx(math.exp(expected), rel=1e-12)
    assert abs(mean_of_means - expected) > 1e-3


def test_bits_per_byte_is_nats_over_log_two_and_bytes():
    metric = TokenLoss()
    metric.update(torch.tensor(10.0), 4, 6)
    metric.update(torch.tensor(20.0), 1, torch.tensor(9))
    assert metric.compute()["bits_per_byte"] == pytest.approx(30 / math.log(2) / 15, rel=1e-12)


def test_without_bytes_there_are_no_bits_per_byte():
    metric = TokenLoss()
    metric.update(torch.tensor(10.0), 4)
    assert set(metric.compute()) == {"loss", "perplexity"}


def test_many_small_batches_lose_no_precision():
    metric = TokenLoss()
    metric.update(torch.tensor(2.0**30), 2**28)
    for _ in range(64):
        metric.update(torch.tensor(0.25), 1)  # below the spacing of float32 at the sum
    assert metric.compute()["loss"] == (2**30 + 16) / (2**28 + 64)


def test_reset_forgets():
    metric = TokenLoss()
    metric.update(torch.tensor(10.0), 4, 8)
    metric.reset()
    metric.update(torch.tensor(3.0), 1)
    assert metric.compute() == {"loss": 3.0, "perplexity": pytest.approx(math.exp(3))}


def test_the_losses_of_corpora_are_their_own_and_make_up_the_whole():
    whole, apart = TokenLoss(), CorpusLoss(["news", "a/b c"])
    for corpus, nats, targets, size in [(0, 6.0, 2, 5), (1, 8.0, 8, 0), (0, 1.0, 5, 2)]:
        whole.update(torch.tensor(nats), targets, size)
        apart.update(corpus, torch.tensor(nats), targets, size)
    found = apart.compute()
    assert found == {
        "loss/news": 1.0,
        "loss/a/b c": 1.0,
        "bits_per_byte/news": pytest.approx(1 / math.log(2)),
    }
    assert whole.compute()["loss"] == pytest.approx((7 * found["loss/news"] + 8 * 1.0) / 15)
    apart.reset()
    apart.update(1, torch.tensor(3.0), 1)
    assert math.isnan(apart.compute()["loss/news"])
    assert apart.compute()["loss/a/b c"] == 3.0


def test_the_losses_of_corpora_are_summed_over_ranks_whatever_each_has_seen():
    ranks = [CorpusLoss(["a", "b"]).to(torch.bfloat16) for _ in range(2)]
    ranks[0].update(0, torch.tensor(2.0**30), 2**28)
    ranks[1].update(1, torch.tensor(3.0), 1)
    ranks[1].update(0, torch.tensor(1.0), 2**28)
    ranks[0].merge_state(ranks[1])
    assert ranks[0].compute() == {"loss/a": (2**30 + 1) / 2**29, "loss/b": 3.0}


def test_no_token_has_no_loss():
    metric = TokenLoss()
    metric.update(torch.tensor(0.0), 0)
    assert math.isnan(metric.compute()["loss"])


def test_perplexity_of_a_diverged_loss_is_infinite():
    metric = TokenLoss()
    metric.update(torch.tensor(1e6), 1)
    assert metric.compute()["perplexity"] == math.inf


def row(documents, padding=0, num_slots=None):
    """Predictions, targets and layout of documents given as (prediction, target) per token."""
    pairs = [pair for document in documents for pair in document]
    pairs += [(3, IGNORE_INDEX)] * padding
    lengths = [len(document) for document in documents] + [padding] * (padding > 0)
    predictions, targets = torch.tensor(pairs).T
    return predictions[None], targets[None], PackedLayout.from_lengths(lengths, num_slots=num_slots)


NOT = IGNORE_INDEX
RIGHT = [(5, NOT), (1, 1), (2, 2)]
WRONG_ONCE = [(9, NOT), (4, 4), (4, 5), (6, 6)]
WRONG_LAST = [(1, 1), (2, 3)]
NO_ANSWER = [(1, NOT), (2, NOT)]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("num_empty", [0, 4])
def test_exact_match_counts_documents_all_of_whose_answers_are_right(padding, num_empty):
    documents = [RIGHT, WRONG_ONCE, NO_ANSWER, RIGHT, WRONG_LAST]
    metric = AnswerAccuracy()
    metric.update(*row(documents, padding, num_slots=6 + num_empty))
    assert metric.compute() == {
        "answer_accuracy": pytest.approx(7 / 9),
        "exact_match": pytest.approx(2 / 4),
    }


def test_accuracy_over_rows_weighs_every_answer_the_same():
    metric = AnswerAccuracy()
    metric.update(*row([RIGHT] * 4))
    metric.update(*row([WRONG_LAST]))
    assert metric.compute() == {
        "answer_accuracy": pytest.approx(9 / 10),
        "exact_match": pytest.approx(4 / 5),
    }


def test_a_wrong_neighbour_does_not_spoil_a_document():
    for documents in ([WRONG_LAST, RIGHT], [RIGHT, WRONG_LAST]):
        metric = AnswerAccuracy()
        metric.update(*row(documents))
        assert metric.compute()["exact_match"] == 0.5


def test_accuracy_forgets_on_reset():
    metric = AnswerAccuracy()
    metric.update(*row([WRONG_LAST]))
    metric.reset()
    metric.update(*row([RIGHT]))
    assert metric.compute() == {"answer_accuracy": 1.0, "exact_match": 1.0}
