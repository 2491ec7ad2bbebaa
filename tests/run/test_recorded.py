"""``config.yaml`` tells the vocabulary, and is compared as it was given."""

from packformer.run.recorded import chosen, recorded


def test_a_vocabulary_of_the_data_is_told_and_compared_as_null() -> None:
    config = {"model": {"vocab_size": None, "width": 8}, "seed": 0}
    told = recorded(config, 384)
    assert told["model"] == {"vocab_size": 384, "width": 8}
    assert chosen(told) == config
    assert chosen(config) == config, "of runs of before"


def test_a_vocabulary_that_was_given_stays_so() -> None:
    config = {"model": {"vocab_size": 512, "width": 8}, "seed": 0}
    assert recorded(config, 512) == config
    assert chosen(config) == config
