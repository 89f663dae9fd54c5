-- Funnels.

create function analytics.funnel(
    from_ts timestamptz, to_ts timestamptz, steps text[], window_ interval default '7 days', per_step boolean default false,
    filters jsonb default '{}', as_of timestamptz default null
) returns table (step integer, event_name text, users bigint, still_open bigint)
language plpgsql stable parallel safe
-- A session in a zone with summer time would make days of other lengths of the windows.
set timezone = 'UTC' set jit = off set work_mem = '64MB' as $$
declare
    levels constant integer := cardinality(steps);
    -- As hours and seconds: days and months would be looked up in the calendar for each event.
    span constant interval := make_interval(secs => extract(epoch from window_)::double precision);
    -- Made here, as the plan folds what is immutable only: neither sums of times nor to_jsonb() are.
    until_ts constant timestamptz := to_ts + span * case when per_step then levels - 1 else 1 end;
    wanted jsonb;
    -- Where each step's name stands first: a name may be the name of several steps.
    places integer[];
    later text;
    parts text[] := '{}';
begin
    if from_ts is null or to_ts is null or from_ts >= to_ts then
        raise exception 'from_ts must lie before to_ts' using errcode = '22023';
    end if;
    if array_ndims(steps) is distinct from 1 or levels not between 2 and 10 or array_position(steps, null) is not null then
        raise exception 'steps: a funnel has 2 to 10 steps, each the name of an event' using errcode = '22023';
    end if;
    if span is null or span <= interval '0' or span > interval '2160 hours' then
        raise exception 'window_: longer than nothing and at most 90 days' using errcode = '22023';
    end if;
    if per_step is null then
        raise exception 'per_step is true or false' using errcode = '22023';
    end if;
    perform analytics.check_filters(filters);
    if filters ? 'event_name' then
        raise exception 'filters: the steps say which events are meant; leave event_name out' using errcode = '22023';
    end if;
    wanted := filters || jsonb_build_object('event_name', to_jsonb(steps));
    as_of := coalesce(as_of, (select watermark from analytics.freshness), now());
    places := array(select array_position(steps, name) from unnest(steps) with ordinality as names (name, place) order by place);

    -- One pass over each user's events in their order. An event's reached_k is null unless the event is step k of some chain; then it
    -- is the latest entry that such a chain has (per_step: the event's own time). Whether a chain goes on depends on the latest
    -- reached_k before alone, as no other is open longer. Only numbers and names made here become part of the statement.
    for k in 2 .. levels loop
        later := array_to_string(places[k:], ', ');
        parts := parts || format(
            $part$
            before_%1$s as (
                select *, max(reached_%2$s) over (
                    partition by hash, tenant_id, user_id order by at
                    range between unbounded preceding and '1 microsecond' preceding
                ) as before_%1$s
                from level_%2$s
            ),
            level_%1$s as (
                select *, case when place = %3$s and before_%1$s >= at - $4 then %4$s end as reached_%1$s
                from before_%1$s
                -- What can still matter: few events do, so that each level costs less than the one before.
                where place in (%5$s) and %6$s or %7$s
            )
            $part$,
            k, k - 1, places[k],
            case when per_step then 'at' else format('before_%s', k) end,
            later,
            case when per_step then format('before_%s is not null', k) else format('before_%s >= at - $4', k) end,
            case when k = 2 then 'reached_1 is not null and (before_2 is null or at + $4 > $6)'
                 else (select format('coalesce(%s) is not null', string_agg(format('reached_%s', j), ', ')) from generate_series(1, k - 1) as j)
            end
        );
    end loop;
    return query execute format(
        $query$
        with level_1 as (
            -- Whole numbers are sorted much faster than names; the names behind keep users of one hash apart.
            select hashtextextended(user_id, 0) as hash, tenant_id, user_id, "timestamp" as at,
                   array_position($3, event_name) as place,
                   case when event_name = $3[1] and "timestamp" < $2 then "timestamp" end as reached_1
            from analytics.matching($1, $7, $5)
            where "timestamp" < $2 or event_name = any ($3[2:])
        ),
        %s,
        each_user as (
            select coalesce(%s) as furthest, greatest(%s) + $4 > $6 as open
            from level_%s group by hash, tenant_id, user_id
        ),
        counted as materialized (select furthest, open, count(*) as users from each_user group by furthest, open)
        select numbers.step, $3[numbers.step],
               coalesce(sum(users) filter (where furthest >= numbers.step), 0)::bigint,
               coalesce(sum(users) filter (where furthest = numbers.step and furthest < cardinality($3) and open), 0)::bigint
        from generate_series(1, cardinality($3)) as numbers (step)
        left join counted on true
        group by numbers.step
        order by numbers.step
        $query$,
        array_to_string(parts, ','),
        (select string_agg(format('case when max(reached_%1$s) is not null then %1$s end', j), ', ' order by j desc) from generate_series(1, levels) as j),
        (select string_agg(format('max(reached_%s)', j), ', ') from generate_series(1, levels) as j),
        levels
    ) using from_ts, to_ts, steps, span, wanted, as_of, until_ts;
end;
$$;
comment on function analytics.funnel(timestamptz, timestamptz, text[], interval, boolean, jsonb, timestamptz) is 'How many users came how far: entered by an event of the first step in [from_ts, to_ts), each later step a strictly later event, all within window_ of the entry, or with per_step each within window_ of the step before. A user counts once, by the furthest of all entries. still_open: those of them that got no further than this step, and whom an event after as_of (null: the watermark) could still take further from an entry they have.';
