-- The events, the consumer's offsets, the dead letters. Runs on PostgreSQL 15 and newer.

create table public.events (
    event_id      uuid        primary key,
    user_id       text        not null,
    event_name    text        not null,
    metadata      jsonb       not null default '{}',
    "timestamp"   timestamptz not null,
    processed_at  timestamptz not null default now(),
    received_at   timestamptz not null,
    tenant_id     text        not null default 'default',
    context       jsonb       not null default '{}',
    experiment_id text,
    variant       text,
    source        text
);
comment on table public.events is 'Every event once, as sent.';
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

create index events_timestamp_idx on public.events ("timestamp");
create index events_event_name_timestamp_idx on public.events (event_name, "timestamp");
create index events_user_id_timestamp_idx on public.events (user_id, "timestamp");

create table public.consumer_offsets (
    consumer_group text        not null,
    topic          text        not null,
    partition      integer     not null,
    next_offset    bigint      not null,
    updated_at     timestamptz not null default now(),
    primary key (consumer_group, topic, partition)
);
comment on table public.consumer_offsets is 'The offset to read next, moved in the transaction that stores the rows before it.';
comment on column public.consumer_offsets.consumer_group is 'The Kafka consumer group.';
comment on column public.consumer_offsets.topic is 'The topic.';
comment on column public.consumer_offsets.partition is 'The partition.';
comment on column public.consumer_offsets.next_offset is 'The offset to read next; moved by compare-and-set only.';
comment on column public.consumer_offsets.updated_at is 'When it was last moved.';

-- No uniqueness on (topic, partition, offset): the offset's compare-and-set already makes each insert happen once, and a topic
-- that was made anew counts from 0 again.
create table public.dead_letters (
    dead_letter_id uuid        primary key default gen_random_uuid(),
    topic          text        not null,
    partition      integer     not null,
    "offset"       bigint      not null,
    message_at     timestamptz,
    key            bytea,
    value          bytea,
    headers        jsonb       not null default '[]',
    reason         text        not null,
    error          text        not null,
    retry_count    integer     not null default 0,
    failed_at      timestamptz not null default now(),
    relayed_at     timestamptz
);
comment on table public.dead_letters is 'Messages that could not be stored, with their original bytes and origin.';
comment on column public.dead_letters.dead_letter_id is 'Identity of the dead letter.';
comment on column public.dead_letters.topic is 'The topic it came from.';
comment on column public.dead_letters.partition is 'The partition it came from.';
comment on column public.dead_letters."offset" is 'Its offset there.';
comment on column public.dead_letters.message_at is 'The message''s own time in Kafka.';
comment on column public.dead_letters.key is 'The original key.';
comment on column public.dead_letters.value is 'The original bytes.';
comment on column public.dead_letters.headers is 'The original headers: [[name, value in base64], …].';
comment on column public.dead_letters.reason is 'Why, from a closed set: not_json, invalid_event, unstorable_value, refused_by_store.';
comment on column public.dead_letters.error is 'Why, for people.';
comment on column public.dead_letters.retry_count is 'How often it was tried again.';
comment on column public.dead_letters.failed_at is 'When it was set aside.';
comment on column public.dead_letters.relayed_at is 'When it was also sent to the dead-letter topic; null until then.';

create index dead_letters_failed_at_idx on public.dead_letters (failed_at);
create index dead_letters_origin_idx on public.dead_letters (topic, partition, "offset");
