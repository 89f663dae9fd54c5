-- Experiments: who saw which variant first, and who reached the goal afterwards.

create function analytics.experiment(
    experiment text,
    goal text,
    from_ts timestamptz,
    to_ts timestamptz,
    window_ interval default '7 days',
    filters jsonb default '{}'
) returns table (variant text, users bigint, conversions bigint, still_open bigint)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan
set jit = off
set work_mem = '64MB'
-- A day of the window is 24 hours everywhere.
set timezone = 'UTC'
-- A partition of which nothing is known yet is taken for nearly empty: each of its events would be compared with each user.
set enable_nestloop = off
as $$
#variable_conflict use_column
declare
    watermark timestamptz := coalesce((select watermark from analytics.freshness), now());
    -- A parameter folds; building the object within the statement does not.
    goals jsonb := filters || jsonb_build_object('event_name', goal);
begin
    if experiment is null or goal is null then
        raise exception 'experiment and goal: must be given' using errcode = '22023';
    end if;
    perform analytics.check_range(from_ts, to_ts);
    if (window_ > interval '0' and window_ <= interval '1000 years') is not true then
        raise exception 'window_: must be longer than nothing, and end some day' using errcode = '22023';
    end if;
    perform analytics.check_filters(filters);
    if filters ?| array['event_name', 'experiment_id', 'variant'] then
        raise exception 'filters: the goal and the experiment say which events are meant: leave out event_name, experiment_id and variant'
            using errcode = '22023';
    end if;
    return query
    with exposed as (
        -- Everything before to_ts, as a user whose first exposure was before from_ts belongs to an earlier range. That the variant is
        -- not null is no condition of its own: the planner would take it for a rare one, and look up each user's events by themselves.
        select e.tenant_id, e.user_id, min(e."timestamp") filter (where e.variant is not null) as exposed_at,
               min(e.variant) as variant, min(e.variant) <> max(e.variant) as switched
        from analytics.events as e
        where e.experiment_id = experiment and e."timestamp" < to_ts
          and (filters -> 'tenant_id' is null or e.tenant_id = any (analytics.texts(filters -> 'tenant_id')))
          and (filters -> 'user_id' is null or e.user_id = any (analytics.texts(filters -> 'user_id')))
        group by e.tenant_id, e.user_id
        having min(e."timestamp") filter (where e.variant is not null) >= from_ts
    ),
    outcomes as (
        select case when not u.switched then u.variant end as variant,
               u.exposed_at + window_ > watermark as open,
               bool_or(g.user_id is not null) as converted
        from exposed as u
        left join analytics.matching(from_ts, to_ts + window_, goals) as g
          on g.tenant_id = u.tenant_id and g.user_id = u.user_id
         and g."timestamp" > u.exposed_at and g."timestamp" <= u.exposed_at + window_
        group by u.tenant_id, u.user_id, u.variant, u.switched, u.exposed_at
    )
    select o.variant, count(*), count(*) filter (where o.converted and o.variant is not null),
           count(*) filter (where o.open and o.variant is not null)
    from outcomes as o
    group by 1
    order by 1;
end;
$$;
comment on function analytics.experiment(text, text, timestamptz, timestamptz, interval, jsonb) is 'For each variant: the users whose first exposure (an event of the experiment with a variant; the earliest ever) lies in [from_ts, to_ts), how many of them had an event named goal after it and at most window_ later (window_ may end after to_ts), and how many had, at the watermark, a window that was not over. The row without a variant: users left out since they saw several variants before to_ts. Filters on tenant_id and user_id say which users, those on source and metadata which goal events.';
