-- Sets messages aside, with their original bytes.
insert into public.dead_letters (topic, partition, "offset", message_at, key, value, headers, reason, error)
select *
from unnest(
    $1::text[], $2::int[], $3::bigint[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::jsonb[], $8::text[], $9::text[]
)
