"""What an analyst would write who has the table events and nothing else; values by name."""

from __future__ import annotations

from typing import Final

_RANGE = '"timestamp" >= %(from_ts)s and "timestamp" < %(to_ts)s'

COUNT: Final = f"select count(*) from public.events where {_RANGE}"
COUNT_NAME: Final = f"select count(*) from public.events where event_name = %(name)s and {_RANGE}"
TIMESERIES: Final = f"""
    select date_trunc('{{unit}}', "timestamp", %(zone)s), count(*) from public.events where {_RANGE} group by 1 order by 1
"""
TIMESERIES_NAMES: Final = f"""
    select event_name, date_trunc('day', "timestamp", %(zone)s), count(*)
    from public.events where {_RANGE} group by 1, 2 order by 1, 2
"""
TOP: Final = f"select event_name, count(*) from public.events where {_RANGE} group by 1 order by 2 desc limit 10"
UNIQUES: Final = f"select count(*) from (select from public.events where {_RANGE} group by tenant_id, user_id) as users"
RETENTION: Final = f"""
    with joined as (
        select tenant_id, user_id, min(("timestamp" at time zone 'UTC')::date) as day from public.events group by 1, 2
    ), active as (
        select distinct tenant_id, user_id, ("timestamp" at time zone 'UTC')::date as day from public.events where {_RANGE}
    )
    select joined.day, active.day - joined.day, count(*)
    from joined join active using (tenant_id, user_id)
    group by 1, 2 order by 1, 2
"""
FUNNEL: Final = f"""
    with first as (
        select tenant_id, user_id, min("timestamp") as entered, min("timestamp") as at
        from public.events where event_name = (%(steps)s::text[])[1] and {_RANGE} group by 1, 2
    ), second as (
        select first.tenant_id, first.user_id, first.entered, min(e."timestamp") as at
        from first join public.events as e using (tenant_id, user_id)
        where e.event_name = (%(steps)s::text[])[2] and e."timestamp" > first.at
          and e."timestamp" <= first.entered + interval '1 day'
          and e."timestamp" > %(from_ts)s and e."timestamp" < %(to_ts)s + interval '1 day'
        group by 1, 2, 3
    ), third as (
        select second.tenant_id, second.user_id, min(e."timestamp") as at
        from second join public.events as e using (tenant_id, user_id)
        where e.event_name = (%(steps)s::text[])[3] and e."timestamp" > second.at
          and e."timestamp" <= second.entered + interval '1 day'
          and e."timestamp" > %(from_ts)s and e."timestamp" < %(to_ts)s + interval '1 day'
        group by 1, 2
    )
    select (select count(*) from first), (select count(*) from second), (select count(*) from third)
"""
EXPERIMENT: Final = """
    with exposed as (
        select tenant_id, user_id, min("timestamp") as at, min(variant) as variant
        from public.events where experiment_id = %(experiment)s and "timestamp" < %(to_ts)s
        group by 1, 2 having min("timestamp") >= %(from_ts)s and min(variant) = max(variant)
    )
    select exposed.variant, count(*), count(*) filter (where exists (
        select from public.events as e
        where e.tenant_id = exposed.tenant_id and e.user_id = exposed.user_id and e.event_name = %(goal)s
          and e."timestamp" > exposed.at and e."timestamp" <= exposed.at + interval '1 day'
          and e."timestamp" >= %(from_ts)s and e."timestamp" < %(to_ts)s + interval '1 day'
    ))
    from exposed group by 1 order by 1
"""
USER: Final = f"""
    select * from public.events where user_id = %(user)s and {_RANGE} order by "timestamp" desc limit 100
"""
EVENT: Final = "select * from public.events where event_id = %(event_id)s::uuid"
