-- Unique users: exact from the days (UTC) on which each user was active, from the events where days can't say it, or sketched.
-- A user is a user_id within a tenant.

create view analytics.tenants as
with recursive found as (
    (select tenant_id from public.user_days order by tenant_id limit 1)
    union all
    select (
        select later.tenant_id from public.user_days as later where later.tenant_id > found.tenant_id order by later.tenant_id limit 1
    )
    from found where found.tenant_id is not null
)
select tenant_id from found where tenant_id is not null;
comment on view analytics.tenants is 'The tenants that have users: quickly, a step in an index each.';
comment on column analytics.tenants.tenant_id is 'The tenant.';

-- --- building blocks

create function analytics.first_of_month(day date) returns date
language sql immutable parallel safe as $$ select day - extract(day from day)::integer + 1 $$;
comment on function analytics.first_of_month(date) is 'The first day of the day''s month: what analytics.user_days calls month.';

create function analytics.days_between(days integer, month date, first date, until date) returns integer
language sql immutable parallel safe as $$
    -- Compared month by month, so that what depends on first and until alone is worked out once. 2147483647: all 31 bits.
    select days
        & case when month > analytics.first_of_month(first) then 2147483647
               when month = analytics.first_of_month(first) then 2147483647 << (first - analytics.first_of_month(first))
               else 0 end
        & case when month < analytics.first_of_month(until) then 2147483647
               when month = analytics.first_of_month(until) then (1 << (until - analytics.first_of_month(until))) - 1
               else 0 end
$$;
comment on function analytics.days_between(integer, date, date, date) is 'Of analytics.user_days.days and month, the days from first up to, not with, until: 0 where there is none.';

create function analytics.with_tenants(filters jsonb) returns jsonb
language sql stable parallel safe as $$
    select case
        when filters -> 'tenant_id' is null and (select count(*) from (select from analytics.tenants limit 101) as few) <= 100
        then filters || jsonb_build_object('tenant_id', array(select tenant_id from analytics.tenants))
        else filters
    end
$$;
comment on function analytics.with_tenants(jsonb) is 'The same filters with all tenants named, where they name none and there are at most 100: the index of analytics.user_days begins with the tenant, so a month can be read without the others then. Keep it in a variable: as an expression it is worked out for each row.';

create function analytics.active_users(first date, until date, filters jsonb default '{}') returns setof analytics.user_days
language sql stable parallel safe as $$
    select d.* from analytics.user_days as d
    where first < until and d.month >= analytics.first_of_month(first) and d.month < until
      and (filters -> 'tenant_id' is null or d.tenant_id = any (analytics.texts(filters -> 'tenant_id')))
      and analytics.days_between(d.days, d.month, first, until) <> 0
$$;
comment on function analytics.active_users(date, date, jsonb) is 'The rows of analytics.user_days that have a day from first up to, not with, until (UTC); of the filters, tenant_id. A row a month: a user of several months comes several times.';

create function analytics.users_per_day(first date, until date, filters jsonb default '{}')
returns table (day date, tenant_id text, users bigint)
language sql stable parallel safe as $$
    select m.month + place::integer - 1, m.tenant_id, users
    from (
        -- Each bit added up by itself: a join with the days would multiply the rows by as many.
        select month, tenant_id, array[
                   sum(days >> 0 & 1), sum(days >> 1 & 1), sum(days >> 2 & 1), sum(days >> 3 & 1), sum(days >> 4 & 1), sum(days >> 5 & 1),
                   sum(days >> 6 & 1), sum(days >> 7 & 1), sum(days >> 8 & 1), sum(days >> 9 & 1), sum(days >> 10 & 1), sum(days >> 11 & 1),
                   sum(days >> 12 & 1), sum(days >> 13 & 1), sum(days >> 14 & 1), sum(days >> 15 & 1), sum(days >> 16 & 1), sum(days >> 17 & 1),
                   sum(days >> 18 & 1), sum(days >> 19 & 1), sum(days >> 20 & 1), sum(days >> 21 & 1), sum(days >> 22 & 1), sum(days >> 23 & 1),
                   sum(days >> 24 & 1), sum(days >> 25 & 1), sum(days >> 26 & 1), sum(days >> 27 & 1), sum(days >> 28 & 1), sum(days >> 29 & 1),
                   sum(days >> 30 & 1)
               ] as counts
        from analytics.active_users(first, until, filters)
        group by month, tenant_id
    ) as m
    cross join unnest(m.counts) with ordinality as counted (users, place)
    where users > 0 and m.month + place::integer - 1 >= first and m.month + place::integer - 1 < until
$$;
comment on function analytics.users_per_day(date, date, jsonb) is 'How many users each tenant had on each day (UTC) from first up to, not with, until; of the filters, tenant_id. All days of a month in one pass.';

create view analytics.daily_users as
select v.day, t.tenant_id, u.users
from (
    -- Grouped here, so that a condition on the day is applied before, and its bit worked out once.
    select day, analytics.first_of_month(day) as month, 1 << extract(day from day)::integer - 1 as bit
    from public.day_versions where isfinite(day) group by day
) as v
cross join analytics.tenants as t
cross join lateral (
    select count(*) as users from public.user_days as d
    where d.tenant_id = t.tenant_id and d.month = v.month and d.days & v.bit <> 0
    having count(*) > 0
) as u;
comment on view analytics.daily_users is 'Unique users of each tenant and day (UTC). Give a range of day: the others are not read then.';
comment on column analytics.daily_users.day is 'The day.';
comment on column analytics.daily_users.tenant_id is 'The tenant.';
comment on column analytics.daily_users.users is 'How many users had events.';

create function analytics.midnight(day date) returns timestamptz
language sql immutable parallel safe as $$ select day::timestamp at time zone 'UTC' $$;
comment on function analytics.midnight(date) is 'When the day begins, in UTC.';

create function analytics.days_serve(filters jsonb) returns boolean
language sql immutable parallel safe as $$
    select not exists (select from jsonb_object_keys(filters) as keys (key) where key <> 'tenant_id')
$$;
comment on function analytics.days_serve(jsonb) is 'Whether analytics.user_days can say it: it knows tenants, and nothing else of events.';

create function analytics.whole_days(from_ts timestamptz, to_ts timestamptz, out first date, out until date)
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off as $$
declare
    found timestamptz;
begin
    perform analytics.check_range(from_ts, to_ts);
    first := (from_ts at time zone 'UTC')::date;
    until := (to_ts at time zone 'UTC')::date;
    -- Asked for with order by, as it is one step in an index then.
    if analytics.midnight(first) < from_ts then
        select e."timestamp" into found from analytics.events as e
        where e."timestamp" >= analytics.midnight(first) and e."timestamp" < from_ts
        order by e."timestamp" limit 1;
        if found is not null then
            first := first + 1;
        end if;
    end if;
    if analytics.midnight(until) < to_ts then
        select e."timestamp" into found from analytics.events as e
        where e."timestamp" >= to_ts and e."timestamp" < analytics.midnight(until + 1)
        order by e."timestamp" limit 1;
        if found is null then
            until := until + 1;
        end if;
    end if;
end;
$$;
comment on function analytics.whole_days(timestamptz, timestamptz) is 'The days (UTC) from first up to, not with, until, all events of which lie in [from_ts, to_ts): also a day that the range cuts where no event is (the rest of today). Where until is not after first there is none.';

create function analytics.users_between(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}')
returns table (tenant_id text, user_id text)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
#variable_conflict use_column
declare
    whole record;
begin
    perform analytics.check_filters(filters);
    whole := analytics.whole_days(from_ts, to_ts);
    if not analytics.days_serve(filters) or whole.first >= whole.until then
        return query select distinct e.tenant_id, e.user_id from analytics.matching(from_ts, to_ts, filters) as e;
        return;
    end if;
    filters := analytics.with_tenants(filters);
    return query
        select d.tenant_id, d.user_id from analytics.active_users(whole.first, whole.until, filters) as d
        union
        select e.tenant_id, e.user_id from analytics.matching(from_ts, analytics.midnight(whole.first), filters) as e
        union
        select e.tenant_id, e.user_id from analytics.matching(analytics.midnight(whole.until), to_ts, filters) as e;
end;
$$;
comment on function analytics.users_between(timestamptz, timestamptz, jsonb) is 'The users with events of [from_ts, to_ts) that the filters let through, each once.';

-- --- questions

create function analytics.unique_users(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}') returns bigint
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
declare
    most constant integer := 20000;
    whole record;
    first_cut date;
    until_cut date;
    one_month boolean;
    surely bigint;
    tenants text[];
    users text[];
begin
    perform analytics.check_filters(filters);
    whole := analytics.whole_days(from_ts, to_ts);
    if not analytics.days_serve(filters) or whole.first >= whole.until then
        return (
            select count(*) from (
                select distinct e.tenant_id, e.user_id from analytics.matching(from_ts, to_ts, filters) as e
            ) as users
        );
    end if;
    filters := analytics.with_tenants(filters);
    first_cut := whole.first - (from_ts < analytics.midnight(whole.first))::integer;
    until_cut := whole.until + (to_ts > analytics.midnight(whole.until))::integer;
    one_month := analytics.first_of_month(first_cut) = analytics.first_of_month(until_cut - 1);
    -- Surely users: those active on a whole day. Users of cut days only: whether they were active within the range, their events say.
    if one_month then
        -- Within a month a user has one row.
        surely := (select count(*) from analytics.active_users(whole.first, whole.until, filters));
        if first_cut < whole.first or until_cut > whole.until then
            select array_agg(edge.tenant_id), array_agg(edge.user_id) into tenants, users
            from (
                select d.tenant_id, d.user_id from analytics.active_users(first_cut, until_cut, filters) as d
                where analytics.days_between(d.days, d.month, whole.first, whole.until) = 0
                limit most + 1
            ) as edge;
        end if;
    elsif first_cut = whole.first and until_cut = whole.until then
        surely := (
            select count(*) from (
                select distinct d.tenant_id, d.user_id from analytics.active_users(whole.first, whole.until, filters) as d
            ) as users
        );
    else
        with found as materialized (
            select d.tenant_id, d.user_id, bool_or(analytics.days_between(d.days, d.month, whole.first, whole.until) <> 0) as sure
            from analytics.active_users(first_cut, until_cut, filters) as d
            group by d.tenant_id, d.user_id
        )
        select (select count(*) from found where sure), array_agg(edge.tenant_id), array_agg(edge.user_id)
        into surely, tenants, users
        from (select found.tenant_id, found.user_id from found where not sure limit most + 1) as edge;
    end if;
    if users is null then
        return surely;
    end if;
    if cardinality(users) > most then
        return (select count(*) from analytics.users_between(from_ts, to_ts, filters));
    end if;
    return surely + (
        select count(*) from unnest(tenants, users) as edge (tenant_id, user_id)
        where exists (
            select from analytics.matching(from_ts, analytics.midnight(whole.first), filters) as e
            where e.tenant_id = edge.tenant_id collate "C" and e.user_id = edge.user_id collate "C"
        ) or exists (
            select from analytics.matching(analytics.midnight(whole.until), to_ts, filters) as e
            where e.tenant_id = edge.tenant_id collate "C" and e.user_id = edge.user_id collate "C"
        )
    );
end;
$$;
comment on function analytics.unique_users(timestamptz, timestamptz, jsonb) is 'How many users had events of [from_ts, to_ts) that the filters let through: exact. Without other filters than tenant_id whole days are not read event by event.';

create function analytics.unique_users_by(
    from_ts timestamptz, to_ts timestamptz, width interval, zone text default 'UTC', filters jsonb default '{}'
) returns table (bucket timestamptz, until timestamptz, users bigint)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
#variable_conflict use_column
declare
    nominal constant timestamptz[] := analytics.bucket_bounds(from_ts, to_ts, width, zone);
    buckets constant integer := cardinality(nominal) - 1;
    bounds constant timestamptz[] := from_ts || nominal[2:buckets] || to_ts;
    days constant boolean := width >= interval '1 day' and not exists (
        select from unnest(nominal) as bound where bound <> date_trunc('day', bound, 'UTC')
    );
begin
    perform analytics.check_filters(filters);
    if analytics.days_serve(filters) and days and width = interval '1 day' then
        filters := analytics.with_tenants(filters);
        return query
            select nominal[n], nominal[n + 1],
                   -- The first and the last day may be cut.
                   case when n in (1, buckets) then analytics.unique_users(bounds[n], bounds[n + 1], filters)
                        else coalesce(inner_days.users, 0) end
            from generate_series(1, buckets) as n
            left join (
                select analytics.midnight(d.day) as day, sum(d.users)::bigint as users
                from analytics.users_per_day(
                    (nominal[2] at time zone 'UTC')::date, (nominal[buckets] at time zone 'UTC')::date, filters
                ) as d
                group by 1
            ) as inner_days on inner_days.day = nominal[n]
            order by n;
    elsif analytics.days_serve(filters) and (days or width > interval '2 days') then
        return query
            select nominal[n], nominal[n + 1], analytics.unique_users(bounds[n], bounds[n + 1], filters)
            from generate_series(1, buckets) as n
            order by n;
    else
        return query
            select nominal[n], nominal[n + 1], coalesce(counted.users, 0)
            from generate_series(1, buckets) as n
            left join (
                select place, count(*) as users
                from (
                    select distinct width_bucket(e."timestamp", bounds) as place, e.tenant_id, e.user_id
                    from analytics.matching(from_ts, to_ts, filters) as e
                ) as users
                group by place
            ) as counted on counted.place = n
            order by n;
    end if;
end;
$$;
comment on function analytics.unique_users_by(timestamptz, timestamptz, interval, text, jsonb) is 'Unique users of each bucket of time, zeros included: exact. A user of several buckets counts in each, so they can''t be added up. The first and the last bucket hold only what lies in [from_ts, to_ts).';

create function analytics.unique_users_per(
    from_ts timestamptz, to_ts timestamptz, breakdown text, filters jsonb default '{}', most integer default 10
) returns table (value text, users bigint)
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
#variable_conflict use_column
begin
    perform analytics.check_range(from_ts, to_ts);
    perform analytics.check_filters(filters);
    perform analytics.check_dimension(coalesce(breakdown, ''));
    perform analytics.check_most(most);
    if breakdown = 'tenant_id' then
        return query
            select tenant_id collate "C", count(*) from analytics.users_between(from_ts, to_ts, filters)
            group by 1 order by 2 desc, 1 limit most;
        return;
    end if;
    return query
        select value, count(*) from (
            select distinct e.tenant_id, e.user_id,
                   analytics.dimension(
                       breakdown, e.event_name, e.user_id, e.tenant_id, e.experiment_id, e.variant, e.source, e.metadata
                   ) collate "C" as value
            from analytics.matching(from_ts, to_ts, filters) as e
        ) as users
        group by value order by 2 desc, 1 nulls last limit most;
end;
$$;
comment on function analytics.unique_users_per(timestamptz, timestamptz, text, jsonb, integer) is 'The values of a column or of metadata.PATH with the most unique users: exact. A user with several values counts for each; value null: events that have none.';

-- --- HyperLogLog: how many, about, in 16 kB whatever their number
--
-- P. Flajolet, É. Fusy, O. Gandouet, F. Meunier: HyperLogLog (AofA 2007), with 2^14 registers and a hash of 64 bits. A sketch is a byte a
-- register: 0, or the longest run of leading zeros among its hashes' other 50 bits, plus one. Sketches of the same users are equal.

create function analytics.hll_hash(tenant_id text, user_id text) returns bigint
language sql immutable parallel safe as $$
    select hashtextextended(user_id collate "C", hashtextextended(tenant_id collate "C", 0))
$$;
comment on function analytics.hll_hash(text, text) is 'A user as 64 random-looking bits.';

create function analytics.hll_rank(least_rest bigint) returns integer
language sql immutable parallel safe as $$ select 51 - length(ltrim(least_rest::bit(50)::text, '0')) $$;
comment on function analytics.hll_rank(bigint) is 'A register''s value of the least of its hashes, without their 14 bits that chose the register: 1 and its leading zeros.';

create function analytics.hll_sketch(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}') returns bytea
language plpgsql stable parallel safe
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '64MB' as $$
begin
    perform analytics.check_range(from_ts, to_ts);
    perform analytics.check_filters(filters);
    return (
        select string_agg(decode(lpad(to_hex(coalesce(analytics.hll_rank(r.least_rest), 0)), 2, '0'), 'hex'), '' order by n)
        from generate_series(0, 16383) as n
        left join (
            select (h.hash & 16383)::integer as register, min((h.hash >> 14) & 1125899906842623) as least_rest
            from (
                select analytics.hll_hash(e.tenant_id, e.user_id) as hash from analytics.matching(from_ts, to_ts, filters) as e
            ) as h
            group by 1
        ) as r on r.register = n
    );
end;
$$;
comment on function analytics.hll_sketch(timestamptz, timestamptz, jsonb) is 'The sketch of the users with events of [from_ts, to_ts) that the filters let through: keep it, unite it with others, estimate.';

create function analytics.hll_union(one bytea, other bytea) returns bytea
language sql immutable parallel safe as $$
    select string_agg(greatest(substr(one, n, 1), substr(other, n, 1)), '' order by n)
    from generate_series(1, 16384) as n
$$;
comment on function analytics.hll_union(bytea, bytea) is 'The sketch of the users of either.';

create function analytics.hll_estimate(sketch bytea) returns double precision
language sql immutable parallel safe as $$
    -- O. Ertl: New cardinality estimation methods for HyperLogLog sketches (arXiv:1702.01284, 2017), algorithm 6: one formula from no
    -- user to any number. Its tau is left out: it matters beyond 2^50 users. exp() has an end where power() would raise an underflow.
    with found as (
        select count(*) filter (where rank = 0) / 16384.0::double precision as empty,
               sum(0.5::double precision ^ rank) filter (where rank > 0) as filled
        from (select get_byte(sketch, n) as rank from generate_series(0, 16383) as n) as registers
    )
    select case
        when sketch is null then null
        when empty = 1 then 0
        else 16384.0::double precision ^ 2 / (2 * ln(2.0::double precision)) / (
            filled + 16384 * case
                when empty = 0 then 0
                else empty + (
                    select sum(exp(greatest(ln(empty) * 2 ^ k, -700)) * 2.0::double precision ^ (k - 1))
                    from generate_series(1, 22) as k
                )
            end
        )
    end
    from found
$$;
comment on function analytics.hll_estimate(bytea) is 'About how many users a sketch has seen; the relative standard error is analytics.hll_error().';

create function analytics.hll_error() returns double precision
language sql immutable parallel safe as $$ select 1.04 / sqrt(16384.0::double precision) $$;
comment on function analytics.hll_error() is 'The relative standard error of estimates: 1.04 divided by the root of the number of registers.';

create function analytics.unique_users_sketched(
    from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}', out users bigint, out error double precision
)
language sql stable parallel safe as $$
    select round(analytics.hll_estimate(analytics.hll_sketch(from_ts, to_ts, filters)))::bigint, analytics.hll_error()
$$;
comment on function analytics.unique_users_sketched(timestamptz, timestamptz, jsonb) is 'About how many users had events of [from_ts, to_ts) that the filters let through, and the relative standard error: in little memory, however many they are.';

create function analytics.unique_users_auto(
    from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}', method text default 'auto',
    out users bigint, out approximate boolean, out error double precision
)
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off as $$
declare
    most constant integer := 1000000;
begin
    perform analytics.check_range(from_ts, to_ts);
    perform analytics.check_filters(filters);
    if method is null or method not in ('auto', 'exact', 'sketch') then
        raise exception 'no method: %', method using errcode = '22023', hint = 'auto, exact or sketch';
    end if;
    approximate := method = 'sketch'
        or (method = 'auto' and not analytics.days_serve(filters) and analytics.events_to_read(from_ts, to_ts, filters) > most);
    -- Of one user or experiment there may be few; they have an index to find them by.
    if approximate and method = 'auto' and filters ?| array['user_id', 'experiment_id'] then
        select count(*) > most into approximate from (select from analytics.matching(from_ts, to_ts, filters) limit most + 1) as few;
    end if;
    if approximate then
        select s.users, s.error into users, error from analytics.unique_users_sketched(from_ts, to_ts, filters) as s;
    else
        users := analytics.unique_users(from_ts, to_ts, filters);
    end if;
end;
$$;
comment on function analytics.unique_users_auto(timestamptz, timestamptz, jsonb, text) is 'Unique users by a method: exact; sketch; auto: exact, but sketched where more than 1,000,000 events would have to be read. approximate says which it was, error is the relative standard error.';
