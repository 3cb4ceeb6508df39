"""What a fit says of the memory bank in its read-out."""

import re

import pytest

from mendiff.workflows.fit import bank_share_note


@pytest.mark.parametrize(
    ("name", "share", "expected"),
    [
        ("glad", 0.3, "scores: reconstructions and memory bank, chosen on synthetic defects in"),
        ("glad", 0.0, "scores: reconstructions only, chosen on synthetic defects in"),
        ("diad", 1.0, "note: scores come from the memory bank only, .* reconstructions do not improve them"),
        ("ran", None, "^$"),  # it has no such read-out
    ],
)
def test_the_share_that_was_chosen_is_told(name, share, expected, tiny_method):
    method = tiny_method(name)
    if share is not None:
        method.readout.bank_share.fill_(share)
    assert re.search(expected, bank_share_note(method))


def test_a_share_that_nobody_chose_is_not_told(tiny_method):
    assert bank_share_note(tiny_method("glad", {"readout.bank_shares": [0.5]})) == ""
