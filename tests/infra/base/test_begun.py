"""Settings compared with those that a result was begun with: by name, in groups, with both values in the message."""

from __future__ import annotations

import pytest

from infra.base.begun import by_full_name, differences, refuse_other_settings
from infra.base.errors import UserError


def test_each_differing_setting_has_both_values() -> None:
    assert differences({"seed": 0, "steps": 2, "beta": 1.0}, {"seed": 1, "steps": 2, "beta": 5.0}) == {
        "seed": (0, 1),
        "beta": (1.0, 5.0),
    }


def test_groups_are_compared_setting_by_setting() -> None:
    before = {"data": {"store": "a", "order": {"seed": 0}}}
    assert differences(before, {"data": {"store": "a", "order": {"seed": 3}}}) == {"seed": (0, 3)}


def test_an_absent_value_is_none_and_a_setting_that_is_gone_does_not_count() -> None:
    assert differences({"gone": 1}, {"flip": None}) == {}
    assert differences({"gone": 1}, {"flip": True}) == {"flip": (None, True)}


def test_settings_that_may_change_are_ignored() -> None:
    assert differences({"copies": 1, "seed": 0}, {"copies": 2, "seed": 1}, ignored={"copies"}) == {"seed": (0, 1)}


def test_the_refusal_says_where_what_and_what_to_do() -> None:
    refuse_other_settings("runs/a", {"seed": 0}, {"seed": 0}, "give another --output")
    message = "runs/a was begun with other settings (seed was 0, now 1; name was 'x', now None); give another --output"
    with pytest.raises(UserError) as refusal:
        refuse_other_settings("runs/a", {"seed": 0, "name": "x"}, {"seed": 1, "name": None}, "give another --output")
    assert str(refusal.value) == message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(UserError, match=r"text was None, now 'x{99}\.\.\.\)"):
        refuse_other_settings("runs/a", {}, {"text": "x" * 1000}, "give another --output")


def test_exactly_the_same_names_may_be_asked_for() -> None:
    assert differences({"gone": 1}, {"flip": True}, exact=True) == {"flip": (None, True), "gone": (1, None)}


def test_groups_with_names_in_common_are_told_apart_by_full_names() -> None:
    settings = {"seed": 0, "fingerprints": {"unet": "a"}, "refiner": {"unet": "b"}}
    assert by_full_name(settings) == {"seed": 0, "fingerprints.unet": "a", "refiner.unet": "b"}
