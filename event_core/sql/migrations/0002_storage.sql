-- Partitioned events, the ledger that keeps their ids distinct, rollups fed by the consumer, and dead letters with a fate.
--
-- Names are compared byte by byte (collate "C"): the rules of a language compare slowly, and text that somebody chose to that end for
-- minutes (strcoll of 256 rare characters), while an index's page is locked; and they change with the operating system.

-- --- events: a partition a day; what no partition takes lies in events_default until one is made for it

alter table public.events rename to events_0001;
alter table public.events_0001 rename constraint events_pkey to events_0001_pkey;
alter index public.events_timestamp_idx rename to events_0001_timestamp_idx;
alter index public.events_event_name_timestamp_idx rename to events_0001_event_name_timestamp_idx;
alter index public.events_user_id_timestamp_idx rename to events_0001_user_id_timestamp_idx;

create table public.events (
    event_id      uuid        not null,
    user_id       text collate "C" not null,
    event_name    text collate "C" not null,
    metadata      jsonb       not null default '{}',
    "timestamp"   timestamptz not null,
    processed_at  timestamptz not null default now(),
    received_at   timestamptz not null,
    tenant_id     text collate "C" not null default 'default',
    context       jsonb       not null default '{}',
    experiment_id text collate "C",
    variant       text collate "C",
    source        text collate "C",
    primary key ("timestamp", event_id)
) partition by range ("timestamp");
comment on table public.events is 'Every event once, as sent; a partition a day (UTC). Look one up by its id through event_ids, which has its time.';
comment on column public.events.event_id is 'The client''s id, or a UUIDv7 made by the ingestion service.';
comment on column public.events.user_id is 'Whose event it is; also the Kafka key.';
comment on column public.events.event_name is 'What happened.';
comment on column public.events.metadata is 'The sender''s JSON object.';
comment on column public.events."timestamp" is 'When it happened, by the sender; else received_at.';
comment on column public.events.processed_at is 'When the transaction that stored it began.';
comment on column public.events.received_at is 'When the ingestion service had it.';
comment on column public.events.tenant_id is 'Whose data it is; default where the form names none.';
comment on column public.events.context is 'Fields beside the known ones, and what the platform noted.';
comment on column public.events.experiment_id is 'The experiment the event belongs to.';
comment on column public.events.variant is 'The experiment''s variant the user saw.';
comment on column public.events.source is 'The service that sent it.';
create index events_event_name_timestamp_idx on public.events (event_name, "timestamp");
create index events_user_id_timestamp_idx on public.events (user_id, "timestamp");

create table public.events_default partition of public.events default;
comment on table public.events_default is 'Events of days that have no partition of their own (yet).';

create table public.event_ids (
    event_id    uuid        primary key,
    event_time  timestamptz not null,
    ingested_on date        not null default current_date
);
comment on table public.event_ids is 'The ids of all stored events, whatever their time: what makes each event stored once. A row lives as long as its event, and at least 30 days.';
comment on column public.event_ids.event_id is 'The event''s id.';
comment on column public.event_ids.event_time is 'Its timestamp: with the id the key of its row in events.';
comment on column public.event_ids.ingested_on is 'The day (UTC) it was stored.';

-- --- rollups, fed in the transaction that stores the rows, from the rows that were really inserted

create table public.event_counts_15m (
    bucket     timestamptz not null,
    tenant_id  text collate "C" not null,
    event_name text collate "C" not null,
    slot       integer     not null,
    events     bigint      not null,
    primary key (bucket, tenant_id, event_name, slot)
) with (fillfactor = 60);
comment on table public.event_counts_15m is 'Events per quarter of an hour (UTC).';
comment on column public.event_counts_15m.bucket is 'The beginning of the quarter.';
comment on column public.event_counts_15m.tenant_id is 'The tenant.';
comment on column public.event_counts_15m.event_name is 'The event''s name.';
comment on column public.event_counts_15m.slot is 'Who counted: a slot of consumer_offsets, so that no two writers share a row. Sum over it. 0: rebuilt.';
comment on column public.event_counts_15m.events is 'How many events were stored.';

create table public.user_days (
    tenant_id text collate "C" not null,
    month     date    not null,
    user_id   text collate "C" not null,
    days      integer not null,
    primary key (tenant_id, month, user_id)
) with (fillfactor = 80);
comment on table public.user_days is 'On which days (UTC) of a month each user had events.';
comment on column public.user_days.tenant_id is 'The tenant.';
comment on column public.user_days.month is 'The first day of the month.';
comment on column public.user_days.user_id is 'The user.';
comment on column public.user_days.days is 'Bit 0 is the 1st of the month, bit 30 the 31st.';

create table public.first_seen (
    tenant_id     text collate "C" not null,
    user_id       text collate "C" not null,
    first_seen_at timestamptz not null,
    primary key (tenant_id, user_id)
) with (fillfactor = 80);
comment on table public.first_seen is 'The earliest event of each user; kept when retention drops the event itself.';
comment on column public.first_seen.tenant_id is 'The tenant.';
comment on column public.first_seen.user_id is 'The user.';
comment on column public.first_seen.first_seen_at is 'The timestamp of the user''s earliest event.';

create table public.day_versions (
    day     date    not null,
    slot    integer not null,
    version bigint  not null,
    primary key (day, slot)
) with (fillfactor = 50);
comment on table public.day_versions is 'Grows with every transaction that changes the events of a day (UTC): the same versions, the same answers.';
comment on column public.day_versions.day is 'The day of the events'' timestamps.';
comment on column public.day_versions.slot is 'Who changed it: a slot of consumer_offsets; 0: anything else.';
comment on column public.day_versions.version is 'How often.';

create table public.first_seen_versions (
    slot    integer primary key,
    version bigint  not null
) with (fillfactor = 50);
comment on table public.first_seen_versions is 'Grows when a user''s first_seen_at moves to an earlier time, which changes answers about other days than the event''s.';
comment on column public.first_seen_versions.slot is 'Who moved it: a slot of consumer_offsets; 0: anything else.';
comment on column public.first_seen_versions.version is 'How often.';

create table public.rollup_epoch (
    epoch bigint not null
);
comment on table public.rollup_epoch is 'One row; grows whenever rollups lose rows or are made anew, so that writers forget what they know of them.';
comment on column public.rollup_epoch.epoch is 'How often that was.';
insert into public.rollup_epoch (epoch) values (1);

create table public.tenant_intake (
    tenant_id    text collate "C" not null,
    day          date    not null,
    slot         integer not null,
    stored       bigint  not null default 0,
    duplicates   bigint  not null default 0,
    dead_letters bigint  not null default 0,
    primary key (tenant_id, day, slot)
) with (fillfactor = 60);
comment on table public.tenant_intake is 'What came in for each tenant, by the day (UTC) it was stored.';
comment on column public.tenant_intake.tenant_id is 'The tenant; empty where a dead letter does not say.';
comment on column public.tenant_intake.day is 'The day it was stored or set aside.';
comment on column public.tenant_intake.slot is 'Who counted: a slot of consumer_offsets.';
comment on column public.tenant_intake.stored is 'New events.';
comment on column public.tenant_intake.duplicates is 'Events that were stored before, with the same content.';
comment on column public.tenant_intake.dead_letters is 'Messages set aside, those that the door refused included.';

-- --- offsets: where each partition's log was read, by what mark to know it again, and what became of its records

alter table public.consumer_offsets
    add column slot integer not null generated always as identity,
    add column cluster_id text,
    add column last_mark text,
    add column last_record_at timestamptz,
    add column last_received_at timestamptz,
    add column consumed bigint not null default 0,
    add column stored bigint not null default 0,
    add column duplicates bigint not null default 0,
    add column dead_letters bigint not null default 0,
    add column skipped bigint not null default 0;
alter table public.consumer_offsets set (fillfactor = 50);
comment on column public.consumer_offsets.slot is 'A number of this row''s own, for rollups.';
comment on column public.consumer_offsets.cluster_id is 'The Kafka cluster it was read from.';
comment on column public.consumer_offsets.last_mark is 'Digest of the record before next_offset: a log made anew has another there.';
comment on column public.consumer_offsets.last_record_at is 'That record''s own time in Kafka.';
comment on column public.consumer_offsets.last_received_at is 'The latest received_at stored from this partition: how fresh it is.';
comment on column public.consumer_offsets.consumed is 'By how much the offset was moved since this row exists.';
comment on column public.consumer_offsets.stored is 'Records that became rows.';
comment on column public.consumer_offsets.duplicates is 'Records whose event was there already.';
comment on column public.consumer_offsets.dead_letters is 'Records set aside.';
comment on column public.consumer_offsets.skipped is 'Offsets without a record of ours: holes in the log (compaction, transactions), and what an operator passed over.';

-- --- dead letters: also those of the door, and what became of each

alter table public.dead_letters
    alter column topic type text collate "C",
    alter column reason type text collate "C",
    alter column partition drop not null,
    alter column "offset" drop not null,
    add column source text collate "C" not null default 'event_consumer',
    add column stage text not null default 'VALUE_CONVERTER',
    add column event_id uuid,
    add column tenant_id text collate "C",
    add column stub boolean not null default false,
    add column state text not null default 'open' check (state in ('open', 'replayed', 'resolved', 'discarded')),
    add column state_at timestamptz not null default now(),
    add column note text;
comment on table public.dead_letters is 'Messages that could not be stored, and events that the door refused, with their original bytes and origin.';
comment on column public.dead_letters.topic is 'The topic it came from, or was meant for.';
comment on column public.dead_letters.partition is 'The partition it came from; null where it never was in a topic.';
comment on column public.dead_letters."offset" is 'Its offset there; null where it never was in a topic.';
comment on column public.dead_letters.reason is 'Why, a label of a closed set (event_consumer/README.md).';
comment on column public.dead_letters.retry_count is 'How often it was replayed.';
comment on column public.dead_letters.source is 'The service that gave up.';
comment on column public.dead_letters.stage is 'Where: VALUE_CONVERTER, KAFKA_PRODUCE, TASK_PUT (the store).';
comment on column public.dead_letters.event_id is 'The event''s id, where the bytes say it.';
comment on column public.dead_letters.tenant_id is 'The event''s tenant, where the bytes say it.';
comment on column public.dead_letters.stub is 'The original was too large: value is a description of it.';
comment on column public.dead_letters.state is 'open; replayed: sent again, not settled yet; resolved: stored after a replay; discarded: by decision.';
comment on column public.dead_letters.state_at is 'Since when.';
comment on column public.dead_letters.note is 'What whoever replayed or discarded it said.';
drop index public.dead_letters_failed_at_idx;
create index dead_letters_state_idx on public.dead_letters (state, failed_at, dead_letter_id);
create index dead_letters_event_id_idx on public.dead_letters (event_id) where event_id is not null;
create index dead_letters_unrelayed_idx on public.dead_letters (failed_at) where relayed_at is null;

-- --- what was stored before; its days have partitions at once, as moving them out of the default would make writers wait

do $$
declare
    day date;
begin
    for day in
        select distinct ("timestamp" at time zone 'UTC')::date from public.events_0001
        where "timestamp" >= now() - interval '400 days' and "timestamp" < now() + interval '3 days'
    loop
        execute format(
            'create table public.%I partition of public.events for values from (%L) to (%L)',
            'events_' || to_char(day, 'YYYYMMDD'),
            day::timestamp at time zone 'UTC',
            (day + 1)::timestamp at time zone 'UTC'
        );
    end loop;
end;
$$;
insert into public.events (
    event_id, user_id, event_name, metadata, "timestamp", processed_at, received_at, tenant_id, context, experiment_id, variant, source
)
select event_id, user_id, event_name, metadata, "timestamp", processed_at, received_at, tenant_id, context, experiment_id, variant, source
from public.events_0001;
insert into public.event_ids (event_id, event_time, ingested_on)
select event_id, "timestamp", (processed_at at time zone 'UTC')::date from public.events_0001;
insert into public.event_counts_15m (bucket, tenant_id, event_name, slot, events)
select date_bin('15 minutes', "timestamp", timestamptz '2000-01-01 00:00+00'), tenant_id, event_name, 0, count(*)
from public.events_0001 group by 1, 2, 3;
insert into public.user_days (tenant_id, month, user_id, days)
select tenant_id, date_trunc('month', "timestamp" at time zone 'UTC')::date, user_id,
       bit_or(1 << (extract(day from "timestamp" at time zone 'UTC')::integer - 1))
from public.events_0001 where isfinite("timestamp") group by 1, 2, 3;
insert into public.first_seen (tenant_id, user_id, first_seen_at)
select tenant_id, user_id, min("timestamp") from public.events_0001 group by 1, 2;
insert into public.day_versions (day, slot, version)
select distinct ("timestamp" at time zone 'UTC')::date, 0, 1 from public.events_0001;
update public.consumer_offsets
set consumed = next_offset, skipped = next_offset; -- what became of these records was not counted then
drop table public.events_0001;
