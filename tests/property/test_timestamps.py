"""RFC 3339 times against the standard library's arithmetic."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from pipeline.timestamps import event_time_ms, format_time, rfc3339_microseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# A day from each end of the calendar, so that no offset leads out of it.
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, offsets, st.sampled_from("Tt "))
def test_a_written_time_is_read_back_whatever_its_offset(moment: datetime, offset: timezone, separator: str) -> None:
    written = moment.astimezone(offset).isoformat(separator)
    microseconds = (moment - _EPOCH) // _MICROSECOND
    assert rfc3339_microseconds(written) == microseconds
    assert event_time_ms(written) == microseconds // 1000


@given(moments)
def test_no_offset_is_utc_and_a_date_alone_its_midnight(moment: datetime) -> None:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    assert rfc3339_microseconds(moment.replace(tzinfo=None).isoformat()) == (moment - _EPOCH) // _MICROSECOND
    assert rfc3339_microseconds(moment.date().isoformat()) == (midnight - _EPOCH) // _MICROSECOND


@given(moments, st.text("0123456789", min_size=1, max_size=40))
def test_fractions_of_any_length_are_cut_off(moment: datetime, digits: str) -> None:
    start = moment.replace(microsecond=0)
    written = f"{start.replace(tzinfo=None).isoformat()}.{digits}Z"
    assert rfc3339_microseconds(written) == (start - _EPOCH) // _MICROSECOND + int(digits.ljust(6, "0")[:6])


@given(st.integers(0, 10**11 - 1), st.integers(0, 999))
def test_seconds_and_milliseconds_of_one_time_agree(seconds: int, milliseconds: int) -> None:
    moment = seconds * 1000 + milliseconds
    assert event_time_ms(seconds) == seconds * 1000
    if moment >= 10**11:
        assert event_time_ms(moment) == moment
    if seconds < 2**32:  # until 2106; beyond, a float of seconds no longer holds every microsecond
        assert event_time_ms(float(f"{seconds}.{milliseconds:03}")) == moment


@given(st.text(alphabet="0123456789-:TtZz+., ", max_size=32))
def test_near_times_are_read_or_refused(text: str) -> None:
    try:
        microseconds = rfc3339_microseconds(text)
    except ValueError as error:
        assert "RFC 3339" in str(error)  # noqa: PT017
    else:
        assert 1 <= (_EPOCH + microseconds * _MICROSECOND).year <= 9999


@given(moments)
def test_a_formatted_time_is_read_back_in_milliseconds(moment: datetime) -> None:
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    formatted = format_time(milliseconds)
    assert event_time_ms(formatted) == milliseconds
    assert ("." in formatted) == bool(milliseconds % 1000)
