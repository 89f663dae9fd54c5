-- Counts: in total, over time, by anything. Whole quarters of an hour come from analytics.event_counts, the rest from the events.

-- --- what every question refuses

create function analytics.check_range(from_ts timestamptz, to_ts timestamptz) returns void
language plpgsql immutable parallel safe as $$
begin
    -- Further out there is no room for a bucket's or a window's end.
    if (from_ts >= '0001-01-01 00:00+00' and from_ts < '10000-01-01 00:00+00'
        and to_ts >= '0001-01-01 00:00+00' and to_ts < '10000-01-01 00:00+00') is not true then
        raise exception 'the range has no end: give from_ts and to_ts, both of the years 1 to 9999' using errcode = '22023';
    elsif from_ts >= to_ts then
        raise exception 'the range is empty: from_ts must lie before to_ts' using errcode = '22023';
    end if;
end;
$$;
comment on function analytics.check_range(timestamptz, timestamptz) is 'Raises 22023 where [from_ts, to_ts) is empty, backwards or without an end: nothing was counted must not look like nothing happened.';

create function analytics.check_dimension(name text) returns void
language plpgsql immutable parallel safe as $$
begin
    if name not in ('event_name', 'user_id', 'tenant_id', 'experiment_id', 'variant', 'source') and name !~ '^metadata\..' then
        raise exception 'nothing can be broken down by "%"', name using errcode = '22023',
            hint = 'take event_name, user_id, tenant_id, experiment_id, variant, source or metadata.PATH';
    end if;
end;
$$;
comment on function analytics.check_dimension(text) is 'Raises 22023 where the name is no dimension: a mistyped breakdown must not count everything as events without a value. Null, for no breakdown, is fine.';

create function analytics.check_most(most integer) returns void
language plpgsql immutable parallel safe as $$
begin
    if (most >= 1) is not true then
        raise exception 'most: how many values are wanted, 1 or more' using errcode = '22023';
    end if;
end;
$$;
comment on function analytics.check_most(integer) is 'Raises 22023 where a limit is null or less than 1.';

-- --- buckets of time in a zone

create function analytics.first_instant(wall timestamp, zone text) returns timestamptz
language plpgsql immutable strict parallel safe as $$
declare
    eve constant timestamptz := (wall at time zone 'UTC') - interval '1 day';
    morrow constant timestamptz := (wall at time zone 'UTC') + interval '1 day';
    -- By the offset of the day before and by that of the day after: one of the two is right, but where the clocks skip this time.
    before constant timestamptz := (wall - ((eve at time zone zone) - (eve at time zone 'UTC'))) at time zone 'UTC';
    after constant timestamptz := (wall - ((morrow at time zone zone) - (morrow at time zone 'UTC'))) at time zone 'UTC';
    low constant timestamptz := least(before, after);
    high constant timestamptz := greatest(before, after);
begin
    if low = high or low at time zone zone >= wall then
        return low;
    elsif high at time zone zone = wall then
        return high;
    end if;
    return (select min(at) from generate_series(low, high, interval '1 minute') as at where at at time zone zone >= wall);
end;
$$;
comment on function analytics.first_instant(timestamp, text) is 'The first moment at which a clock in the zone shows this time or a later one: right also where clocks skip it or show it twice.';

create function analytics.second_instant(wall timestamp, zone text) returns timestamptz
language plpgsql immutable strict parallel safe as $$
declare
    first constant timestamptz := analytics.first_instant(wall, zone);
begin
    return (
        select max(at) from generate_series(first, first + interval '3 hours', interval '15 minutes') as at
        where at at time zone zone = wall
    );
end;
$$;
comment on function analytics.second_instant(timestamp, text) is 'The last moment at which a clock in the zone shows this time; null where none does.';

create function analytics.bucket_bounds(from_ts timestamptz, to_ts timestamptz, width interval, zone text) returns timestamptz[]
language plpgsql immutable parallel safe as $$
declare
    days integer := extract(day from width);
    months integer := extract(month from width) + 12 * extract(year from width);
    step interval := width - make_interval(months => months, days => days);
    first_day date := (from_ts at time zone zone)::date;
    last_day date := (to_ts at time zone zone)::date;
    found timestamptz[];
begin
    perform analytics.check_range(from_ts, to_ts);
    if zone is null then
        raise exception 'no zone: name one, as Europe/Rome or UTC' using errcode = '22023';
    elsif not coalesce(isfinite(width), false) or (months > 0)::integer + (days > 0)::integer + (step > interval '0')::integer <> 1
          or months not between 0 and 1 or days not between 0 and 31
          or (step > interval '0' and (step < interval '1 minute' or step > interval '1 day'
              or mod(86400, extract(epoch from step)) <> 0 or mod(extract(epoch from step), 60) <> 0)) then
        raise exception 'no width of a bucket: %', width using errcode = '22023',
            hint = 'minutes or hours that divide a day, 1 to 31 days, or 1 month';
    elsif (last_day - first_day + 3)::bigint * 86400 / extract(epoch from width) > 200000 then
        raise exception 'too many buckets: take wider ones or a shorter range' using errcode = '22023';
    end if;
    if months > 0 then
        select array_agg(analytics.first_instant(wall, zone) order by wall) into found
        from generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp + interval '32 days', interval '1 month') as wall;
    elsif days > 0 then
        -- Counted from a Monday, so that 7 days are a week of ISO 8601.
        first_day := first_day - mod(mod(first_day - date '2001-01-01', days) + days, days);
        select array_agg(analytics.first_instant((first_day + n)::timestamp, zone) order by n) into found
        from generate_series(0, last_day - first_day + days, days) as n;
    else
        -- A day without a change of the clocks is divided by elapsed time; any other by what the clocks show.
        with day as materialized (
            select analytics.first_instant(day::timestamp, zone) as midnight, analytics.first_instant((day + 1)::timestamp, zone) as next,
                   day::timestamp as wall
            from (select first_day - 1 + n as day from generate_series(0, last_day - first_day + 2) as n) as days
        )
        select array_agg(distinct at order by at) into found
        from day
        cross join lateral (
            select midnight + n * step as at
            from generate_series(0, (86400 / extract(epoch from step))::integer - 1) as n
            where next - midnight = interval '1 day'
            union all
            select analytics.first_instant(wall + n * step, zone)
            from generate_series(0, (86400 / extract(epoch from step))::integer - 1) as n
            where next - midnight <> interval '1 day'
            union all
            -- An hour that is there twice makes two buckets; of wider ones, one.
            select analytics.second_instant(wall + n * step, zone)
            from generate_series(0, (86400 / extract(epoch from step))::integer - 1) as n
            where next - midnight > interval '1 day' and step <= interval '1 hour'
        ) as moments
        where at is not null;
    end if;
    return array(
        select at from (select distinct at from unnest(found) as at) as bounds
        where at >= (select max(b) from unnest(found) as b where b <= from_ts)
          and at <= (select min(b) from unnest(found) as b where b >= to_ts)
        order by at
    );
end;
$$;
comment on function analytics.bucket_bounds(timestamptz, timestamptz, interval, text) is 'Where the buckets of a range begin and end: the first bound is from_ts or before, the last to_ts or after. Days, weeks (from Monday) and months begin at the zone''s midnight; minutes and hours divide its days as its clocks show them.';

-- --- counting

create function analytics.counts_serve(filters jsonb, breakdown text, bounds timestamptz[]) returns boolean
language sql immutable parallel safe as $$
    select not exists (select from jsonb_object_keys(filters) as keys (key) where key not in ('event_name', 'tenant_id'))
       and coalesce(breakdown in ('event_name', 'tenant_id'), true)
       and not exists (
           select from unnest(bounds[2:cardinality(bounds) - 1]) as inner_bound
           where inner_bound <> date_bin('15 minutes', inner_bound, timestamptz '2000-01-01 00:00+00')
       )
$$;
comment on function analytics.counts_serve(jsonb, text, timestamptz[]) is 'Whether analytics.event_counts can say it: it knows names and tenants, and buckets that begin with a quarter of an hour.';

create function analytics.counts_between(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}', by_hours boolean default false)
returns setof analytics.event_counts
language sql stable parallel safe as $$
    select c.*
    from (
        select * from analytics.fresh_quarters as fresh where fresh.bucket >= from_ts and fresh.bucket < to_ts
        union all
        select * from analytics.event_hours as hours
        where by_hours
          and hours.bucket >= date_bin('1 hour', from_ts + interval '45 minutes', timestamptz '2000-01-01 00:00+00')
          and hours.bucket < date_bin('1 hour', to_ts, timestamptz '2000-01-01 00:00+00')
        union all
        -- All that is folded, or what lies before the first whole hour,
        select * from analytics.folded_quarters as folded
        where folded.bucket >= from_ts
          and folded.bucket < case when by_hours
              then least(to_ts, date_bin('1 hour', from_ts + interval '45 minutes', timestamptz '2000-01-01 00:00+00')) else to_ts end
        union all
        -- and after the last.
        select * from analytics.folded_quarters as folded
        where by_hours
          and folded.bucket >= greatest(
              date_bin('1 hour', from_ts + interval '45 minutes', timestamptz '2000-01-01 00:00+00'),
              date_bin('1 hour', to_ts, timestamptz '2000-01-01 00:00+00'))
          and folded.bucket < to_ts
    ) as c
    where (filters -> 'event_name' is null or c.event_name = any (analytics.texts(filters -> 'event_name')))
      and (filters -> 'tenant_id' is null or c.tenant_id = any (analytics.texts(filters -> 'tenant_id')))
$$;
comment on function analytics.counts_between(timestamptz, timestamptz, jsonb, boolean) is 'The counts of the quarters that begin in [from_ts, to_ts), of the names and tenants that the filters let through; from_ts begins a quarter. by_hours: where it can be, a row is of a whole hour: fewer rows of the same sum.';

create function analytics.counted(bounds timestamptz[], filters jsonb default '{}', breakdown text default null)
returns table (place integer, value text, events bigint)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
#variable_conflict use_column
declare
    buckets constant integer := cardinality(bounds) - 1;
    low constant timestamptz := bounds[1];
    high constant timestamptz := bounds[buckets + 1];
    quarter constant interval := '15 minutes';
    by_hours constant boolean := not exists (
        select from unnest(bounds[2:buckets]) as inner_bound
        where inner_bound <> date_bin('1 hour', inner_bound, timestamptz '2000-01-01 00:00+00')
    );
    first_quarter timestamptz;
    last_quarter timestamptz;
    -- What the range cuts off a quarter is added from the events, or, where that is less, the rest taken away.
    head_from timestamptz := low;
    head_until timestamptz := low;
    head_sign integer := 1;
    tail_from timestamptz := high;
    tail_until timestamptz := high;
    tail_sign integer := 1;
begin
    perform analytics.check_range(low, high);
    perform analytics.check_filters(filters);
    perform analytics.check_dimension(breakdown);
    if not analytics.counts_serve(filters, breakdown, bounds) then
        return query
            select width_bucket(e."timestamp", bounds),
                   analytics.dimension(
                       breakdown, e.event_name, e.user_id, e.tenant_id, e.experiment_id, e.variant, e.source, e.metadata
                   ) collate "C",
                   count(*)
            from analytics.matching(low, high, filters) as e
            group by 1, 2;
        return;
    end if;
    first_quarter := date_bin(quarter, low, timestamptz '2000-01-01 00:00+00');
    last_quarter := date_bin(quarter, high, timestamptz '2000-01-01 00:00+00');
    if first_quarter = last_quarter then
        head_until := high;
        first_quarter := high;
        last_quarter := high;
    else
        if first_quarter < low then
            if low - first_quarter < first_quarter + quarter - low then
                head_from := first_quarter;
                head_sign := -1;
            else
                first_quarter := first_quarter + quarter;
                head_until := first_quarter;
            end if;
        end if;
        if last_quarter < high then
            -- Of the future there are hardly any events.
            if least(last_quarter + quarter, greatest(now(), high)) - high < high - last_quarter then
                last_quarter := last_quarter + quarter;
                tail_until := last_quarter;
                tail_sign := -1;
            else
                tail_from := last_quarter;
            end if;
        end if;
    end if;
    if breakdown is null then
        -- Adding up each quarter first is several times faster than placing every row.
        return query
            select part.place, null::text, sum(part.events)::bigint
            from (
                select least(greatest(width_bucket(quarters.bucket, bounds), 1), buckets) as place, quarters.events
                from (
                    select case when buckets > 1 then c.bucket else low end as bucket, sum(c.events) as events
                    from analytics.counts_between(first_quarter, last_quarter, filters, by_hours) as c
                    group by 1
                ) as quarters
                union all
                select 1, head_sign * (select count(*) from analytics.matching(head_from, head_until, filters))
                union all
                select buckets, tail_sign * (select count(*) from analytics.matching(tail_from, tail_until, filters))
            ) as part
            group by 1
            having sum(part.events) <> 0;
        return;
    end if;
    return query
        select part.place, part.value, sum(part.events)::bigint
        from (
            select case when buckets > 1 then least(greatest(width_bucket(c.bucket, bounds), 1), buckets) else 1 end as place,
                   analytics.dimension(breakdown, c.event_name, null, c.tenant_id, null, null, null, null) collate "C" as value,
                   sum(c.events) as events
            from analytics.counts_between(first_quarter, last_quarter, filters, by_hours) as c
            group by 1, 2
            union all
            select 1, analytics.dimension(breakdown, e.event_name, null, e.tenant_id, null, null, null, null) collate "C",
                   head_sign * count(*)
            from analytics.matching(head_from, head_until, filters) as e
            group by 2
            union all
            select buckets, analytics.dimension(breakdown, e.event_name, null, e.tenant_id, null, null, null, null) collate "C",
                   tail_sign * count(*)
            from analytics.matching(tail_from, tail_until, filters) as e
            group by 2
        ) as part
        group by 1, 2
        having sum(part.events) <> 0;
end;
$$;
comment on function analytics.counted(timestamptz[], jsonb, text) is 'Events between each two neighbours of bounds (place 1: the first two), by the values of breakdown (a column, metadata.PATH, or null for none). What every count is made of.';

create function analytics.count_events(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}') returns bigint
language sql stable parallel safe as $$
    select coalesce(sum(events), 0)::bigint from analytics.counted(array[from_ts, to_ts], filters)
$$;
comment on function analytics.count_events(timestamptz, timestamptz, jsonb) is 'How many events of [from_ts, to_ts) the filters let through.';

create function analytics.top(from_ts timestamptz, to_ts timestamptz, by text, most integer default 10, filters jsonb default '{}')
returns table (value text, events bigint, total bigint)
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off as $$
#variable_conflict use_column
begin
    perform analytics.check_most(most);
    perform analytics.check_dimension(coalesce(by, ''));
    return query
        select value, events, sum(events) over ()::bigint
        from analytics.counted(array[from_ts, to_ts], filters, by)
        -- A function's result has the database's order, which differs from server to server.
        order by events desc, value collate "C" nulls last
        limit most;
end;
$$;
comment on function analytics.top(timestamptz, timestamptz, text, integer, jsonb) is 'The most frequent values of a column or of metadata.PATH, and how many events there are in all; value null: events that have none.';

create function analytics.timeseries(
    from_ts timestamptz, to_ts timestamptz, width interval, zone text default 'UTC', filters jsonb default '{}',
    breakdown text default null, most integer default 10
) returns table (bucket timestamptz, until timestamptz, value text, other boolean, events bigint)
language plpgsql stable parallel safe set jit = off set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    nominal constant timestamptz[] := analytics.bucket_bounds(from_ts, to_ts, width, zone);
    buckets constant integer := cardinality(nominal) - 1;
    bounds constant timestamptz[] := from_ts || nominal[2:buckets] || to_ts;
begin
    perform analytics.check_most(most);
    if breakdown is null then
        return query
            select nominal[n], nominal[n + 1], null::text, false, coalesce(c.events, 0)
            from generate_series(1, buckets) as n
            left join analytics.counted(bounds, filters) as c on c.place = n
            order by n;
        return;
    end if;
    return query
        with counted as materialized (
            -- Its result has the database's order, which differs from server to server.
            select place, value collate "C" as value, events from analytics.counted(bounds, filters, breakdown)
        ), ranked as (
            select value, row_number() over (order by sum(events) desc, value nulls last) > most as other, sum(events) as total
            from counted group by value
        ), series as (
            select case when not other then value end as value, other, sum(total) as total from ranked group by 1, 2
        ), summed as (
            select place, case when not other then counted.value end as value, other, sum(events)::bigint as events
            -- As "is not distinct from", which would compare each with each.
            from counted
            join ranked on coalesce(ranked.value, '') = coalesce(counted.value, '') and (ranked.value is null) = (counted.value is null)
            group by 1, 2, 3
        )
        select nominal[n], nominal[n + 1], series.value, series.other, coalesce(summed.events, 0)
        from series
        cross join generate_series(1, buckets) as n
        left join summed on summed.place = n and summed.other = series.other and summed.value is not distinct from series.value
        order by series.other, series.total desc, series.value nulls last, n;
end;
$$;
comment on function analytics.timeseries(timestamptz, timestamptz, interval, text, jsonb, text, integer) is 'Events per bucket of time, zeros included; with a breakdown a series for each of its most frequent values, and one (other) for all the rest. The first and the last bucket hold only what lies in [from_ts, to_ts).';

create function analytics.events_to_read(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}') returns bigint
language plpgsql stable parallel safe set jit = off set plan_cache_mode = force_custom_plan as $$
begin
    return (
        select coalesce(sum(events), 0)
        from analytics.counts_between(date_bin('15 minutes', from_ts, timestamptz '2000-01-01 00:00+00'), to_ts, filters, true)
    );
end;
$$;
comment on function analytics.events_to_read(timestamptz, timestamptz, jsonb) is 'How many events an answer must read where it reads them one by one: those of the range that the filters on name and tenant let through.';
