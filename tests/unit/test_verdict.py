"""What each database error means for a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_consumer.metrics import Metrics
from event_consumer.verdict import CLASSES, Verdict, judge, sqlstate_class

FORESEEN = ("57014", "22", "23", "44", "54", "P0", "0A", "21", "28", "3F", "42")
"""What is not waited out."""

TABLE: list[tuple[str | None, str | None, Verdict]] = [
    (None, None, Verdict.WAIT),  # the connection failed
    ("08000", None, Verdict.WAIT),  # connection_exception
    ("08006", None, Verdict.WAIT),  # connection_failure
    ("25006", None, Verdict.WAIT),  # read_only_sql_transaction: a failover
    ("25P03", None, Verdict.WAIT),  # idle_in_transaction_session_timeout
    ("3D000", None, Verdict.WAIT),  # invalid_catalog_name: the migration makes the database
    ("40001", None, Verdict.WAIT),  # serialization_failure
    ("40P01", None, Verdict.WAIT),  # deadlock_detected
    ("53100", None, Verdict.WAIT),  # disk_full
    ("53200", None, Verdict.WAIT),  # out_of_memory
    ("53300", None, Verdict.WAIT),  # too_many_connections
    ("55P03", None, Verdict.WAIT),  # lock_not_available
    ("57014", None, Verdict.SLOW),  # query_canceled
    ("57P01", None, Verdict.WAIT),  # admin_shutdown
    ("57P03", None, Verdict.WAIT),  # cannot_connect_now
    ("58030", None, Verdict.WAIT),  # io_error
    ("XX000", None, Verdict.WAIT),  # internal_error
    ("22001", None, Verdict.DATA),  # string_data_right_truncation
    ("22003", None, Verdict.DATA),  # numeric_value_out_of_range
    ("22008", None, Verdict.DATA),  # datetime_field_overflow
    ("22021", None, Verdict.DATA),  # character_not_in_repertoire
    ("22P02", None, Verdict.DATA),  # invalid_text_representation
    ("22P05", None, Verdict.DATA),  # untranslatable_character
    ("23502", None, Verdict.DATA),  # not_null_violation
    ("23503", "some_fk", Verdict.DATA),  # foreign_key_violation
    ("23505", "some_key", Verdict.DATA),  # unique_violation
    ("23514", "a_check", Verdict.DATA),  # check_violation
    ("54000", None, Verdict.DATA),  # program_limit_exceeded: too long for an index
    ("54001", None, Verdict.DATA),  # statement_too_complex: nested too deep
    ("44000", None, Verdict.DATA),  # with_check_option_violation
    ("P0001", None, Verdict.DATA),  # raise_exception: a trigger's own
    ("23514", None, Verdict.STOP),  # no partition takes the row
    ("23514", "", Verdict.STOP),
    ("0A000", None, Verdict.STOP),  # feature_not_supported
    ("21000", None, Verdict.STOP),  # cardinality_violation
    ("28000", None, Verdict.STOP),  # invalid_authorization_specification
    ("28P01", None, Verdict.STOP),  # invalid_password
    ("3F000", None, Verdict.STOP),  # invalid_schema_name
    ("42501", None, Verdict.STOP),  # insufficient_privilege
    ("42601", None, Verdict.STOP),  # syntax_error
    ("42703", None, Verdict.STOP),  # undefined_column
    ("42P01", None, Verdict.STOP),  # undefined_table
]


@pytest.mark.parametrize(("sqlstate", "constraint", "verdict"), TABLE)
def test_each_error_is_waited_out_or_blamed_on_a_row_or_ends_the_service(
    sqlstate: str | None, constraint: str | None, verdict: Verdict
) -> None:
    assert judge(sqlstate, constraint=constraint) is verdict


@given(st.from_regex(r"[0-9A-Z]{5}", fullmatch=True))
def test_an_error_that_nobody_foresaw_loses_no_event(sqlstate: str) -> None:
    if not sqlstate.startswith(FORESEEN):
        assert judge(sqlstate) is Verdict.WAIT


@given(st.none() | st.from_regex(r"[0-9A-Z]{5}", fullmatch=True) | st.text(max_size=6))
def test_every_error_has_a_label_of_a_closed_set(sqlstate: str | None) -> None:
    assert sqlstate_class(sqlstate) in CLASSES


def test_the_labels_are_known_before_anything_happens() -> None:
    metrics = Metrics()
    for name in CLASSES:
        assert metrics.registry.get_sample_value("consumer_database_waits_total", {"sqlstate_class": name}) == 0
    assert [sqlstate_class(code) for code in (None, "40P01", "57014", "99999")] == ["none", "40", "57", "other"]
