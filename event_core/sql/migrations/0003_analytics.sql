-- The schema analytics: what may be asked of the stored events, by the API, by Superset and by anybody with the role analytics_reader.
-- The views are the only way to the tables; the functions read the views. Runs on PostgreSQL 15 and newer.

do $$
begin
    begin
        if not exists (select from pg_roles where rolname = 'analytics_reader') then
            create role analytics_reader nologin;
        end if;
    exception
        -- Roles belong to the whole server: another database's migration may be making it now.
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
            raise exception 'the role analytics_reader is missing, and % may not make it', current_user
                using hint = format('As an administrator: create role analytics_reader; grant analytics_reader to %I', current_user);
    end;
    -- Whoever migrates is whom the services log in as, unless somebody decides otherwise: it must be able to take on the role. From
    -- PostgreSQL 16 on not even who made a role can, without being granted it.
    if not (select rolsuper from pg_roles where rolname = current_user)
       and not pg_has_role(current_user, 'analytics_reader', case when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end) then
        execute format('grant analytics_reader to %I', current_user);
    end if;
exception
    when insufficient_privilege then
        raise exception '% may not take on the role analytics_reader', current_user
            using hint = format('As an administrator: create role analytics_reader if it is missing; grant analytics_reader to %I', current_user);
end;
$$;

create schema analytics;
comment on schema analytics is 'What may be asked of the stored events. Its views and functions are stable; the tables in public are not.';
grant usage on schema analytics to analytics_reader;
alter default privileges in schema analytics grant select on tables to analytics_reader;
-- The services compare the schema's version with their own.
grant select on public.alembic_version to analytics_reader;

alter table public.consumer_offsets add column caught_up_at timestamptz;
comment on column public.consumer_offsets.caught_up_at is 'When the consumer last saw that everything Kafka held of this partition was stored.';

comment on column public.event_counts_15m.slot is 'Who counted: a slot of consumer_offsets, so that no two writers share a row. Sum over it. 0: added up after the day, or rebuilt.';

-- Months are added up from hours: of days that are over there are four times fewer rows than quarters.
create table public.event_counts_1h (
    bucket     timestamptz not null,
    tenant_id  text collate "C" not null,
    event_name text collate "C" not null,
    events     bigint      not null,
    primary key (bucket, tenant_id, event_name)
);
comment on table public.event_counts_1h is 'Events per hour (UTC): slot 0 of event_counts_15m, added up. Whoever changes that slot changes this in the same transaction.';
comment on column public.event_counts_1h.bucket is 'The beginning of the hour.';
comment on column public.event_counts_1h.tenant_id is 'The tenant.';
comment on column public.event_counts_1h.event_name is 'The event''s name.';
comment on column public.event_counts_1h.events is 'How many events were stored and folded.';
insert into public.event_counts_1h (bucket, tenant_id, event_name, events)
select date_bin('1 hour', bucket, timestamptz '2000-01-01 00:00+00'), tenant_id, event_name, sum(events)
from public.event_counts_15m where slot = 0 group by 1, 2, 3;
create index event_counts_15m_unfolded_idx on public.event_counts_15m (bucket) where slot <> 0;

-- An experiment's exposures are few among all events. Whose they are is not in the index: four names of 256 characters do not fit.
create index events_experiment_id_timestamp_idx on public.events (experiment_id, "timestamp") where experiment_id is not null;

-- --- views

create view analytics.events as
select event_id, tenant_id, user_id, event_name, "timestamp", received_at, processed_at, source, experiment_id, variant, metadata, context
from public.events;
comment on view analytics.events is 'Every event once. Give a range of timestamp: the partitions outside are not read then.';
comment on column analytics.events.event_id is 'The event''s id. Look one up with where_is_event().';
comment on column analytics.events.tenant_id is 'Whose data it is.';
comment on column analytics.events.user_id is 'Whose event it is, within the tenant.';
comment on column analytics.events.event_name is 'What happened.';
comment on column analytics.events."timestamp" is 'When it happened, by the sender. All questions go by this time.';
comment on column analytics.events.received_at is 'When the ingestion service had it.';
comment on column analytics.events.processed_at is 'When it was stored.';
comment on column analytics.events.source is 'The service that sent it.';
comment on column analytics.events.experiment_id is 'The experiment the event belongs to.';
comment on column analytics.events.variant is 'The experiment''s variant the user saw.';
comment on column analytics.events.metadata is 'The sender''s JSON object.';
comment on column analytics.events.context is 'Fields beside the known ones, and what the platform noted.';

create view analytics.event_counts as
select bucket, tenant_id, event_name, events from public.event_counts_15m;
comment on view analytics.event_counts is 'Events per quarter of an hour, as fresh as analytics.events. Sum it: a quarter may have several rows of one name.';
comment on column analytics.event_counts.bucket is 'The beginning of the quarter (UTC).';
comment on column analytics.event_counts.tenant_id is 'The tenant.';
comment on column analytics.event_counts.event_name is 'The event''s name.';
comment on column analytics.event_counts.events is 'How many events; add up.';

create view analytics.folded_quarters as
select bucket, tenant_id, event_name, events from public.event_counts_15m where slot = 0;
comment on view analytics.folded_quarters is 'That part of event_counts which is in event_hours too: of days that are over, but for what came late.';
comment on column analytics.folded_quarters.bucket is 'The beginning of the quarter (UTC).';
comment on column analytics.folded_quarters.tenant_id is 'The tenant.';
comment on column analytics.folded_quarters.event_name is 'The event''s name.';
comment on column analytics.folded_quarters.events is 'How many events.';

create view analytics.fresh_quarters as
select bucket, tenant_id, event_name, events from public.event_counts_15m where slot <> 0;
comment on view analytics.fresh_quarters is 'The rest of event_counts: today, and what came late. Sum it.';
comment on column analytics.fresh_quarters.bucket is 'The beginning of the quarter (UTC).';
comment on column analytics.fresh_quarters.tenant_id is 'The tenant.';
comment on column analytics.fresh_quarters.event_name is 'The event''s name.';
comment on column analytics.fresh_quarters.events is 'How many events; add up.';

create view analytics.event_hours as
select bucket, tenant_id, event_name, events from public.event_counts_1h;
comment on view analytics.event_hours is 'folded_quarters added up to hours. With fresh_quarters it is all events.';
comment on column analytics.event_hours.bucket is 'The beginning of the hour (UTC).';
comment on column analytics.event_hours.tenant_id is 'The tenant.';
comment on column analytics.event_hours.event_name is 'The event''s name.';
comment on column analytics.event_hours.events is 'How many events.';

create view analytics.user_days as
select tenant_id, month, user_id, days from public.user_days;
comment on view analytics.user_days is 'On which days (UTC) of a month each user had events.';
comment on column analytics.user_days.tenant_id is 'The tenant.';
comment on column analytics.user_days.month is 'The first day of the month.';
comment on column analytics.user_days.user_id is 'The user.';
comment on column analytics.user_days.days is 'Bit 0 is the 1st of the month, bit 30 the 31st.';

create view analytics.first_seen as
select tenant_id, user_id, first_seen_at from public.first_seen;
comment on view analytics.first_seen is 'The earliest event of each user.';
comment on column analytics.first_seen.tenant_id is 'The tenant.';
comment on column analytics.first_seen.user_id is 'The user.';
comment on column analytics.first_seen.first_seen_at is 'The timestamp of the user''s earliest event.';

create view analytics.dead_letters as
select dead_letter_id, event_id, tenant_id, state, reason, error, failed_at, state_at, source, stage, topic, partition, "offset", retry_count
from public.dead_letters;
comment on view analytics.dead_letters is 'Messages set aside, without their bytes. make dlq shows, mends and replays them.';
comment on column analytics.dead_letters.dead_letter_id is 'Identity of the dead letter.';
comment on column analytics.dead_letters.event_id is 'The event''s id, where the bytes say it.';
comment on column analytics.dead_letters.tenant_id is 'The event''s tenant, where the bytes say it.';
comment on column analytics.dead_letters.state is 'open, replayed, resolved or discarded.';
comment on column analytics.dead_letters.reason is 'Why, a label of a closed set.';
comment on column analytics.dead_letters.error is 'Why, for people.';
comment on column analytics.dead_letters.failed_at is 'When it was set aside.';
comment on column analytics.dead_letters.state_at is 'Since when it is in its state.';
comment on column analytics.dead_letters.source is 'The service that gave up.';
comment on column analytics.dead_letters.stage is 'Where: VALUE_CONVERTER, KAFKA_PRODUCE, TASK_PUT (the store).';
comment on column analytics.dead_letters.topic is 'The topic it came from, or was meant for.';
comment on column analytics.dead_letters.partition is 'The partition it came from.';
comment on column analytics.dead_letters."offset" is 'Its offset there.';
comment on column analytics.dead_letters.retry_count is 'How often it was replayed.';

create view analytics.event_ids as
select event_id, event_time from public.event_ids;
comment on view analytics.event_ids is 'The ids of all stored events with their times; kept at least 30 days when retention drops the event.';
comment on column analytics.event_ids.event_id is 'The event''s id.';
comment on column analytics.event_ids.event_time is 'Its timestamp.';

create view analytics.intake as
select tenant_id, day, sum(stored)::bigint as stored, sum(duplicates)::bigint as duplicates, sum(dead_letters)::bigint as dead_letters
from public.tenant_intake group by tenant_id, day;
comment on view analytics.intake is 'What came in for each tenant, by the day (UTC) it was stored.';
comment on column analytics.intake.tenant_id is 'The tenant; empty where a dead letter does not say.';
comment on column analytics.intake.day is 'The day it was stored or set aside.';
comment on column analytics.intake.stored is 'New events.';
comment on column analytics.intake.duplicates is 'Events that were stored before, with the same content.';
comment on column analytics.intake.dead_letters is 'Messages set aside.';

create view analytics.partitions as
select consumer_group, topic, partition, next_offset, consumed, stored, duplicates, dead_letters, skipped,
       greatest(last_received_at, caught_up_at) as watermark, updated_at
from public.consumer_offsets;
comment on view analytics.partitions is 'How far each Kafka partition is stored, and what became of its records.';
comment on column analytics.partitions.consumer_group is 'The Kafka consumer group.';
comment on column analytics.partitions.topic is 'The topic.';
comment on column analytics.partitions.partition is 'The partition.';
comment on column analytics.partitions.next_offset is 'The offset to read next.';
comment on column analytics.partitions.consumed is 'Offsets passed since this row exists.';
comment on column analytics.partitions.stored is 'Records that became rows.';
comment on column analytics.partitions.duplicates is 'Records whose event was there already.';
comment on column analytics.partitions.dead_letters is 'Records set aside.';
comment on column analytics.partitions.skipped is 'Offsets without a record of ours.';
comment on column analytics.partitions.watermark is 'What Kafka held of this partition at this time is stored: the last stored received_at, or when nothing more was there, whichever is later; null: unknown.';
comment on column analytics.partitions.updated_at is 'When the offset was last moved.';

create view analytics.freshness as
select case when bool_and(watermark is not null) then min(watermark) end as watermark, now() as asked_at
from analytics.partitions
where consumer_group = (select newest.consumer_group from analytics.partitions as newest order by newest.updated_at desc limit 1);
comment on view analytics.freshness is 'How fresh every answer is: one row.';
comment on column analytics.freshness.watermark is 'The least watermark of all partitions of the consumer group that wrote last; null: unknown.';
comment on column analytics.freshness.asked_at is 'The database''s time.';

create view analytics.versions as
select day, sum(version)::bigint as version, count(*) as writers from public.day_versions group by day;
comment on view analytics.versions is 'Grows with every change of a day''s events: the same versions, the same answers.';
comment on column analytics.versions.day is 'The day (UTC) of the events'' timestamps.';
comment on column analytics.versions.version is 'How often the day was changed.';
comment on column analytics.versions.writers is 'How many writers changed it.';

create view analytics.other_versions as
select (select epoch from public.rollup_epoch) as epoch, coalesce(sum(version), 0)::bigint as first_seen from public.first_seen_versions;
comment on view analytics.other_versions is 'Versions that belong to no day: one row.';
comment on column analytics.other_versions.epoch is 'Grows when rollups lose rows or are made anew.';
comment on column analytics.other_versions.first_seen is 'Grows when a user''s first_seen_at moves to an earlier time.';

create function analytics.version_of(from_ts timestamptz, to_ts timestamptz) returns text
language sql stable parallel safe as $$
    -- Each number only ever grows, so their sum is the same only where all of them are. What begins anew with small numbers, a database made
    -- again or a server put back, has another name or another start.
    select concat_ws(
        '.', (select oid from pg_database where datname = current_database()), extract(epoch from pg_postmaster_start_time())::bigint,
        epoch, other.first_seen, coalesce(sum(version), 0), coalesce(sum(writers), 0)
    )
    from analytics.other_versions as other
    left join analytics.versions
        on day >= (from_ts at time zone 'UTC')::date and day <= ((to_ts - interval '1 microsecond') at time zone 'UTC')::date
    group by epoch, other.first_seen
$$;
comment on function analytics.version_of(timestamptz, timestamptz) is 'A text that stays the same as long as every answer about [from_ts, to_ts) does.';

-- --- filters: a JSON object like {"event_name": ["view", "buy"], "tenant_id": ["default"], "metadata": {"plan": ["pro"], "address.city": ["Rome"]}}

create function analytics.texts(value jsonb) returns text[]
language sql immutable parallel safe as $$
    select case jsonb_typeof(value)
        when 'array' then array(select jsonb_array_elements_text(value))
        when 'null' then null
        else array[value #>> '{}']
    end
$$;
comment on function analytics.texts(jsonb) is 'A JSON array, or one value, as texts; null where there is none.';

create function analytics.metadata_path(path text) returns text[]
language sql immutable strict parallel safe as $$
    select array(
        select replace(part, E'\x01', '.')
        from unnest(string_to_array(replace(path, '\.', E'\x01'), '.')) with ordinality as parts (part, place)
        order by place
    )
$$;
comment on function analytics.metadata_path(text) is 'The keys of a dotted path: address.city. A dot within a key is written \. ; a number takes an array''s element (from 0).';

create function analytics.filter_path(filters jsonb, number integer) returns text[]
language sql immutable parallel safe as $$
    select analytics.metadata_path(
        (select key from jsonb_object_keys(coalesce(filters -> 'metadata', '{}')) with ordinality as keys (key, place) where place = number)
    )
$$;
comment on function analytics.filter_path(jsonb, integer) is 'The path of the number-th metadata filter; null where there are fewer.';

create function analytics.filter_values(filters jsonb, number integer) returns text[]
language sql immutable parallel safe as $$
    select analytics.texts(
        (select value from jsonb_each(coalesce(filters -> 'metadata', '{}')) with ordinality as pairs (key, value, place) where place = number)
    )
$$;
comment on function analytics.filter_values(jsonb, integer) is 'The values that the number-th metadata filter lets through.';

create function analytics.check_filters(filters jsonb) returns void
language plpgsql immutable parallel safe as $$
declare
    unknown text;
begin
    if jsonb_typeof(filters) is distinct from 'object' then
        raise exception 'filters: not a JSON object' using errcode = '22023';
    end if;
    select string_agg(key, ', ') into unknown from jsonb_object_keys(filters) as keys (key)
    where key not in ('event_name', 'user_id', 'tenant_id', 'experiment_id', 'variant', 'source', 'metadata');
    if unknown is not null then
        raise exception 'filters: nothing can be filtered by %', unknown using errcode = '22023',
            hint = 'event_name, user_id, tenant_id, experiment_id, variant, source, metadata';
    end if;
    if jsonb_typeof(coalesce(filters -> 'metadata', '{}')) <> 'object'
       or (select count(*) from jsonb_object_keys(coalesce(filters -> 'metadata', '{}'))) > 3 then
        raise exception 'filters: metadata is an object of at most 3 paths' using errcode = '22023';
    end if;
end;
$$;
comment on function analytics.check_filters(jsonb) is 'Raises 22023 where the filters say what nothing can be filtered by: a mistyped filter must not count everything.';

create function analytics.matching(from_ts timestamptz, to_ts timestamptz, filters jsonb default '{}')
returns setof analytics.events
language sql stable parallel safe as $$
    -- Conditions on nothing are folded away when the plan is made, so every filter that has an index can use it.
    select e.* from analytics.events as e
    where e."timestamp" >= from_ts and e."timestamp" < to_ts
      and (filters -> 'event_name' is null or e.event_name = any (analytics.texts(filters -> 'event_name')))
      and (filters -> 'user_id' is null or e.user_id = any (analytics.texts(filters -> 'user_id')))
      and (filters -> 'tenant_id' is null or e.tenant_id = any (analytics.texts(filters -> 'tenant_id')))
      and (filters -> 'experiment_id' is null or e.experiment_id = any (analytics.texts(filters -> 'experiment_id')))
      and (filters -> 'variant' is null or e.variant = any (analytics.texts(filters -> 'variant')))
      and (filters -> 'source' is null or e.source = any (analytics.texts(filters -> 'source')))
      and (analytics.filter_path(filters, 1) is null
           or e.metadata #>> analytics.filter_path(filters, 1) = any (analytics.filter_values(filters, 1)))
      and (analytics.filter_path(filters, 2) is null
           or e.metadata #>> analytics.filter_path(filters, 2) = any (analytics.filter_values(filters, 2)))
      and (analytics.filter_path(filters, 3) is null
           or e.metadata #>> analytics.filter_path(filters, 3) = any (analytics.filter_values(filters, 3)))
$$;
comment on function analytics.matching(timestamptz, timestamptz, jsonb) is 'The events of [from_ts, to_ts) that the filters let through: each filter names a column (or a metadata path) and the values it lets through. Checks no names: the questions do.';

create function analytics.dimension(
    name text, event_name text, user_id text, tenant_id text, experiment_id text, variant text, source text, metadata jsonb
) returns text
language sql immutable parallel safe as $$
    select case name
        when 'event_name' then event_name
        when 'user_id' then user_id
        when 'tenant_id' then tenant_id
        when 'experiment_id' then experiment_id
        when 'variant' then variant
        when 'source' then source
        else case when starts_with(name, 'metadata.') then metadata #>> analytics.metadata_path(substr(name, 10)) end
    end
$$;
comment on function analytics.dimension(text, text, text, text, text, text, text, jsonb) is 'An event''s value of what answers are broken down by: a column, or metadata.PATH; null where it has none.';
