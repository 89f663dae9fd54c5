-- Retention.

create function analytics.new_users(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}') returns setof analytics.first_seen
language sql stable parallel safe as $$
    select f.* from analytics.first_seen as f
    where f.first_seen_at >= from_ts and f.first_seen_at < to_ts
      and (filters -> 'tenant_id' is null or f.tenant_id = any (analytics.texts(filters -> 'tenant_id')))
      and (filters -> 'user_id' is null or f.user_id = any (analytics.texts(filters -> 'user_id')))
$$;
comment on function analytics.new_users(timestamptz, timestamptz, jsonb) is 'The users whose first event ever lies in [from_ts, to_ts); of the filters, tenant_id and user_id.';

create function analytics.returns_by_events(bounds timestamptz[], cohorts integer, periods integer, filters jsonb default '{}')
returns table (number integer, mask bigint)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB'
-- A partition of which nothing is known yet is taken for nearly empty: each of its events would be compared with each user.
set enable_nestloop = off as $$
#variable_conflict use_column
begin
    return query
        select new.number, bit_or(1::bigint << (width_bucket(e."timestamp", bounds) - 1 - new.number))
        from (
            select row_number() over () as id, tenant_id, user_id, width_bucket(first_seen_at, bounds) - 1 as number
            from analytics.new_users(bounds[1], bounds[cohorts + 1], filters)
        ) as new
        join analytics.matching(bounds[1], bounds[cardinality(bounds)], filters) as e
            on e.tenant_id = new.tenant_id and e.user_id = new.user_id
        where e."timestamp" >= bounds[new.number + 1] and e."timestamp" < bounds[new.number + 2 + periods]
        group by new.id, new.number;
end;
$$;
comment on function analytics.returns_by_events(timestamptz[], integer, integer, jsonb) is 'Of each user who came anew between the first bounds (a cohort between each two) and had events that the filters let through: the cohort''s number from 0, and a mask whose bit n says that there were some in the n-th period after the cohort''s.';

create function analytics.retention(
    from_ts timestamptz, to_ts timestamptz, width interval default '1 day', zone text default 'UTC', periods integer default 7,
    filters jsonb default '{}'
) returns table (cohort timestamptz, period integer, begins timestamptz, until timestamptz, users bigint)
language plpgsql stable parallel safe set timezone = 'UTC' set jit = off set work_mem = '64MB' as $$
declare
    unit constant text := case
        when width = '1 day' and extract(day from width) = 1 then 'day'
        when width = '7 days' and extract(day from width) = 7 then 'week'
        when width = '1 month' and extract(month from width) = 1 then 'month'
    end;
    bounds timestamptz[];
    cohorts integer;
    -- The masks of days serve where every period is made of whole days (UTC) and any event counts.
    by_days boolean;
    masks text;
    bits integer := periods + 1;
begin
    perform analytics.check_range(from_ts, to_ts);
    if unit is null then
        raise exception 'width: cohorts are days, weeks or months' using errcode = '22023', hint = '1 day, 7 days or 1 month';
    end if;
    if periods is null or periods not between 1 and 60 then
        raise exception 'periods: 1 to 60' using errcode = '22023';
    end if;
    perform analytics.check_filters(filters);
    cohorts := cardinality(analytics.bucket_bounds(from_ts, to_ts, width, zone)) - 1;
    if cohorts > 400 then
        raise exception 'more than 400 cohorts: ask for wider ones, or for a shorter range' using errcode = '22023';
    end if;
    -- More than enough, whatever the clocks do; then cut.
    bounds := (analytics.bucket_bounds(from_ts, to_ts + width * (periods + 1) + interval '3 days', width, zone))[:cohorts + 1 + periods];

    by_days := filters - '{tenant_id,user_id}'::text[] = '{}'
        and not exists (select from unnest(bounds) as bound where bound <> date_trunc('day', bound));
    -- Masks of users of the cohort with this number (from 0): bit n says that the user was active in period base + n.
    -- No two masks say the same of a user, so that adding up their bits counts users.
    if not by_days then
        masks := $masks$
            select number, 0 as base, mask from analytics.returns_by_events($1, $2, $3, $4)
        $masks$;
    elsif unit = 'day' then
        bits := 31;
        masks := $masks$
            select new.number, d.month - $5 - new.number as base, d.days as mask
            from cohort as new
            join analytics.user_days as d on d.tenant_id = new.tenant_id and d.user_id = new.user_id
            where d.month >= date_trunc('month', $5)::date and d.month < $6
        $masks$;
    elsif unit = 'week' then
        -- A week may lie in two months, hence one mask a user. 0001-01-01 was a Monday.
        masks := $masks$
            select number, 0 as base, bit_or(case when shift >= 0 then weeks << shift else weeks >> -shift end) as mask
            from (
                select new.id, new.number, (d.month - (d.month - date '0001-01-01') % 7 - $5) / 7 - new.number as shift,
                       case when aligned & 127 <> 0 then 1 else 0 end::bigint
                       | case when aligned & (127::bigint << 7) <> 0 then 2 else 0 end
                       | case when aligned & (127::bigint << 14) <> 0 then 4 else 0 end
                       | case when aligned & (127::bigint << 21) <> 0 then 8 else 0 end
                       | case when aligned & (127::bigint << 28) <> 0 then 16 else 0 end
                       | case when aligned & (127::bigint << 35) <> 0 then 32 else 0 end as weeks
                from (select row_number() over () as id, * from cohort) as new
                join analytics.user_days as d on d.tenant_id = new.tenant_id and d.user_id = new.user_id
                cross join lateral (select d.days::bigint << ((d.month - date '0001-01-01') % 7) as aligned) as week
                where d.month >= date_trunc('month', $5)::date and d.month < $6
            ) as each_month
            where shift between -5 and $3
            group by id, number
        $masks$;
    else
        bits := 1;
        masks := $masks$
            select new.number, width_bucket(d.month::timestamptz, $1) - 1 - new.number as base, 1 as mask
            from cohort as new
            join analytics.user_days as d on d.tenant_id = new.tenant_id and d.user_id = new.user_id
            where d.days <> 0 and d.month >= $5 and d.month < $6
        $masks$;
    end if;
    return query execute format(
        $query$
        with cohort as not materialized (
            select tenant_id, user_id, numbers.number
            from analytics.new_users($1[1], $1[$2 + 1], $4)
            -- Joined only so that the planner knows how few numbers there are.
            join generate_series(0, $2 - 1) as numbers (number) on numbers.number = %1$s
        ),
        masks as (%2$s),
        sums as (select number, base, array[%3$s] as sums from masks group by number, base),
        counts as (
            -- Those who came anew, even where their events are no longer kept.
            select number, 0 as place, count(*) as users from cohort group by number
            union all
            select number, base + nth::integer - 1, sum(users)::bigint
            from sums, unnest(sums) with ordinality as bits (users, nth)
            where base + nth between 2 and $3 + 1
            group by number, base + nth::integer - 1
        )
        select $1[numbers.number + 1], places.place, $1[numbers.number + places.place + 1], $1[numbers.number + places.place + 2],
               coalesce(counts.users, 0)
        from generate_series(0, $2 - 1) as numbers (number)
        cross join generate_series(0, $3) as places (place)
        left join counts on counts.number = numbers.number and counts.place = places.place
        order by numbers.number, places.place
        $query$,
        case when by_days and unit = 'day' then '(first_seen_at at time zone ''UTC'')::date - $5' else 'width_bucket(first_seen_at, $1) - 1' end,
        masks,
        (select string_agg(format('sum((mask >> %s & 1)::integer)', nth), ', ' order by nth) from generate_series(0, bits - 1) as nth)
    ) using bounds, cohorts, periods, filters, bounds[1]::date, bounds[cardinality(bounds)]::date;
end;
$$;
comment on function analytics.retention(timestamptz, timestamptz, interval, text, integer, jsonb) is 'Of the users whose first event ever lies in each day, week (from Monday) or month of the zone that [from_ts, to_ts) touches (the cohort), how many had events in its period-th day, week or month after that one, [begins, until). Period 0: the cohort''s size. The filters on tenant_id and user_id choose the cohorts'' users too, the others only the events by which they return.';
