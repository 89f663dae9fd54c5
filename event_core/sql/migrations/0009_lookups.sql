-- Single events, lists of them, and what is new: events page by page, where an event is, and what a live view shows each second.

-- --- events, page by page

create function analytics.list_events(
    from_ts timestamptz,
    to_ts timestamptz,
    filters jsonb default '{}',
    newest boolean default true,
    after_ts timestamptz default null,
    after_id uuid default null,
    most integer default 100,
    most_bytes bigint default null
) returns setof analytics.events
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
declare
    -- The row comparison alone leaves every partition open; a bound of timestamp prunes those that were passed.
    first_ts timestamptz := case when newest then from_ts else greatest(from_ts, after_ts) end;
    last_ts timestamptz := case when newest then least(to_ts, after_ts + interval '1 microsecond') else to_ts end;
begin
    perform analytics.check_filters(filters);
    if from_ts is null or to_ts is null or from_ts >= to_ts then
        raise exception 'from_ts must lie before to_ts: the range [from_ts, to_ts) is empty' using errcode = '22023';
    end if;
    if newest is null or most is null or most not between 1 and 10000 then
        raise exception 'most: one page has 1 to 10000 events; newest is true or false' using errcode = '22023';
    end if;
    if (after_ts is null) <> (after_id is null) then
        raise exception 'after_ts and after_id go together: the timestamp and event_id of the last event of the page before'
            using errcode = '22023';
    end if;
    if newest then
        return query
        select (page.event).* from (
            -- What precedes a row on its page, in bytes: a thousand events may be small, or a quarter of a GiB.
            select e as event, sum(octet_length(e.metadata::text) + octet_length(e.context::text)) over (
                order by e."timestamp" desc, e.event_id desc rows between unbounded preceding and 1 preceding
            ) as before
            from (
                select m.* from analytics.matching(first_ts, last_ts, filters) as m
                where after_ts is null or (m."timestamp", m.event_id) < (after_ts, after_id)
                order by m."timestamp" desc, m.event_id desc limit most
            ) as e
        ) as page
        where most_bytes is null or page.before is null or page.before <= most_bytes
        order by (page.event)."timestamp" desc, (page.event).event_id desc;
    else
        return query
        select (page.event).* from (
            -- What precedes a row on its page, in bytes: a thousand events may be small, or a quarter of a GiB.
            select e as event, sum(octet_length(e.metadata::text) + octet_length(e.context::text)) over (
                order by e."timestamp", e.event_id rows between unbounded preceding and 1 preceding
            ) as before
            from (
                select m.* from analytics.matching(first_ts, last_ts, filters) as m
                where after_ts is null or (m."timestamp", m.event_id) > (after_ts, after_id)
                order by m."timestamp", m.event_id limit most
            ) as e
        ) as page
        where most_bytes is null or page.before is null or page.before <= most_bytes
        order by (page.event)."timestamp", (page.event).event_id;
    end if;
end;
$$;
comment on function analytics.list_events(timestamptz, timestamptz, jsonb, boolean, timestamptz, uuid, integer, bigint) is
    'A page of the events of [from_ts, to_ts) that the filters let through, by timestamp and event_id, newest (or oldest) first. The next page: after_ts and after_id of the page''s last event. A page far inside costs what the first does. most_bytes: the page ends with the event whose metadata and context pass this.';

-- --- where an event is

create function analytics.where_is_event(id uuid) returns table (
    state text, event_id uuid, "timestamp" timestamptz, tenant_id text, user_id text, event_name text, received_at timestamptz,
    processed_at timestamptz, source text, experiment_id text, variant text, metadata jsonb, context jsonb,
    reason text, error text, dead_letter_id uuid, dead_letter_state text, failed_at timestamptz, dead_letters jsonb
)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    -- A constant for the plan: only the partition of this time is opened.
    happened_at timestamptz := (select event_time from analytics.event_ids where event_id = id);
begin
    if id is null then
        raise exception 'id: which event?' using errcode = '22023';
    end if;
    return query
    select case
               when e.event_id is not null then 'stored'
               when happened_at is not null then 'gone'
               when letters.number > 0 then 'dead_letter'
               else 'unknown'
           end,
           id, happened_at, e.tenant_id, e.user_id, e.event_name, e.received_at, e.processed_at, e.source, e.experiment_id, e.variant,
           e.metadata, e.context,
           letter.reason, letter.error, letter.dead_letter_id, letter.state, letter.failed_at, letters.listed
    from (select id as wanted) as asked
    left join analytics.events as e on e."timestamp" = happened_at and e.event_id = asked.wanted
    left join lateral (
        select d.reason, d.error, d.dead_letter_id, d.state, d.failed_at from analytics.dead_letters as d
        where (d.event_id = id or d.dead_letter_id = id) and happened_at is null
        order by d.failed_at desc, d.dead_letter_id desc limit 1
    ) as letter on true
    cross join lateral (
        select count(*) as number, coalesce(jsonb_agg(to_jsonb(d) order by d.failed_at desc, d.dead_letter_id desc), '[]') as listed
        from (
            select l.* from analytics.dead_letters as l where l.event_id = id or l.dead_letter_id = id
            order by l.failed_at desc, l.dead_letter_id desc limit 100
        ) as d
    ) as letters;
end;
$$;
comment on function analytics.where_is_event(uuid) is
    'What became of an event, one row. state: stored (with its columns); gone: it was stored, and retention dropped it; dead_letter: set aside (reason, error and dead_letter_… of the newest time); unknown: neither, or not consumed yet. dead_letters: its dead letters in any state, newest first, at most 100.';

-- --- live

create function analytics.live_counts(tenants text[] default '{}')
returns table (tenant_id text, stored bigint, watermark timestamptz, asked_at timestamptz)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off as $$
#variable_conflict use_column
begin
    return query
    select totals.tenant_id, totals.stored, fresh.watermark, fresh.asked_at
    from analytics.freshness as fresh
    cross join (
        select null::text as tenant_id, (select coalesce(sum(p.stored), 0)::bigint from analytics.partitions as p) as stored
        union all
        select wanted.tenant_id,
               (select coalesce(sum(i.stored), 0)::bigint from analytics.intake as i where i.tenant_id = wanted.tenant_id)
        from (select distinct unnest(tenants) collate "C" as tenant_id) as wanted
        where wanted.tenant_id is not null
    ) as totals;
end;
$$;
comment on function analytics.live_counts(text[]) is
    'How many events were ever stored by the consumers: one row of all (tenant_id null), and one of each of the tenants. Ask twice: the differences are what was stored between.';

create function analytics.newest_events(since timestamptz, most integer default 20, tenants text[] default null)
returns table (
    event_id uuid, tenant_id text, user_id text, event_name text, "timestamp" timestamptz, received_at timestamptz,
    processed_at timestamptz, source text, experiment_id text, variant text
)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off as $$
#variable_conflict use_column
declare
    -- Senders' clocks differ a little; an event of next year is not news.
    until timestamptz := now() + interval '1 minute';
begin
    if since is null or most is null or most not between 1 and 1000 then
        raise exception 'most: 1 to 1000 events of a time since when' using errcode = '22023';
    end if;
    if tenants is null then
        return query
        select e.event_id, e.tenant_id, e.user_id, e.event_name, e."timestamp", e.received_at, e.processed_at, e.source,
               e.experiment_id, e.variant
        from analytics.events as e
        where e."timestamp" >= since and e."timestamp" < until
        order by e."timestamp" desc, e.event_id desc limit most;
    else
        return query
        select e.event_id, e.tenant_id, e.user_id, e.event_name, e."timestamp", e.received_at, e.processed_at, e.source,
               e.experiment_id, e.variant
        from (
            select latest.*, row_number() over (
                partition by latest.tenant_id order by latest."timestamp" desc, latest.event_id desc
            ) as place
            -- No index knows tenants, and this is asked each second: it must cost the same however rare a tenant's events are.
            from (
                select n.event_id, n.tenant_id, n.user_id, n.event_name, n."timestamp", n.received_at, n.processed_at, n.source,
                       n.experiment_id, n.variant
                from analytics.events as n
                where n."timestamp" >= since and n."timestamp" < until
                order by n."timestamp" desc, n.event_id desc limit 10000
            ) as latest
            where latest.tenant_id = any (tenants)
        ) as e
        where e.place <= most
        order by e."timestamp" desc, e.event_id desc;
    end if;
end;
$$;
comment on function analytics.newest_events(timestamptz, integer, text[]) is
    'The newest events by timestamp, from since until a minute ahead, without metadata and context. With tenants: the newest of each of them, among the 10000 newest of all.';
